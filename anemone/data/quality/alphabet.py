"""The characters of texts: how often each comes, where first, and which of them are odd."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anemone.data.columns import slices

RARE = 0.001  # a script with a smaller share of the letters is a stranger
CONTROLS = {"Cc": "a control", "Cf": "an invisible", "Co": "a private", "Cn": "an unassigned", "Cs": "a surrogate"}
JOINERS = {"\u200c", "\u200d"}  # which Persian, Hindi and other languages are written with
SIZE = 16_384  # texts at a time


class Character(NamedTuple):
    """A character of a set: how often it comes, and the first row it comes in."""

    character: str
    times: int
    row: int


def alphabet(text: pa.ChunkedArray) -> list[Character]:
    """Returns the characters (code points) of texts, the most frequent first."""
    counts: Counter[int] = Counter()
    first: dict[int, int] = {}
    for start, codes, rows in coded(text):
        found, places, numbers = np.unique(codes, return_index=True, return_counts=True)
        for code, place, number in zip(found.tolist(), places.tolist(), numbers.tolist(), strict=True):
            counts[code] += number
            first.setdefault(code, start + int(rows[place]))
    return [
        Character(chr(code), number, first[code])
        for code, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def coded(text: pa.ChunkedArray) -> Iterator[tuple[int, npt.NDArray[np.uint32], npt.NDArray[np.int64]]]:
    """Yields, some texts at a time, the first row's number, all code points, and the row of each from there."""
    for piece in slices(len(text), SIZE):
        part = pc.fill_null(text[piece], "").combine_chunks()
        lengths = pc.utf8_length(part).to_numpy()
        joined = b"".join(value.encode("utf-32-le", "surrogatepass") for value in part.to_pylist())
        yield piece.start, np.frombuffer(joined, np.uint32), np.repeat(np.arange(len(part)), lengths)


def odd(characters: list[Character]) -> dict[str, str]:
    """Returns the characters that look like mistakes, and why.

    Control and invisible characters, private and unassigned ones, U+FFFD; and the letters of a script that has less
    than one in a thousand of the set's letters, such as a Greek omicron among Latin ones.
    """
    why: dict[str, str] = {}
    shares: Counter[str] = Counter()
    for item in characters:
        shares[script(item.character)] += item.times
    letters = sum(shares.values()) - shares[""]
    for item in characters:
        kind, of = unicodedata.category(item.character), script(item.character)
        if item.character == "\ufffd":
            why[item.character] = "a character that could not be decoded"
        elif kind in CONTROLS and item.character not in JOINERS:
            why[item.character] = f"{CONTROLS[kind]} character"
        elif of and shares[of] < RARE * letters:
            why[item.character] = f"a letter of {of.capitalize()}, which has {shares[of]:,} of {letters:,} letters"
    return why


def script(character: str) -> str:
    """Returns the first word of a letter's name, such as LATIN, CYRILLIC or CJK; empty for what is no letter.

    Example:
        >>> script("a"), script("ж"), script("1")
        ('LATIN', 'CYRILLIC', '')
    """
    if not character.isalpha():
        return ""
    word = unicodedata.name(character, "").partition(" ")[0].partition("-")[0]
    return {"HIRAGANA": "CJK", "KATAKANA": "CJK", "FULLWIDTH": "LATIN", "MICRO": "GREEK", "MODIFIER": ""}.get(
        word, word
    )


def shown(character: str) -> str:
    """Returns a character as it can be printed anywhere: itself, or its code.

    Example:
        >>> shown("é"), shown(" "), shown("\\u202e")
        ('é', 'U+0020', 'U+202E')
    """
    plain = unicodedata.category(character)[0] in "LNPS" and ord(character) < 0x20000
    return character if plain else f"U+{ord(character):04X}"
