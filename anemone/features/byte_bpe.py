"""Byte-level byte-pair encoding: sub-words of the bytes of UTF-8, as GPT-2 and Whisper cut them.

A text is cut into words, numbers, signs and white space (`cut`); the bytes of each piece are joined pair by pair, the
pair first that was found first when the merges were learned (arXiv:1508.07909). So every text can be written.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from anemone.config import EMPTY, must
from anemone.errors import ConfigError
from anemone.features.tokenizers import read_file

REMEMBERED = 1 << 14  # pieces whose units are kept
MAX_UNITS = 1 << 22
END = "<|endoftext|>"

# Sorts of characters: letter L, number N, space, other white space W, sign S; letters of contractions as they are.
CUT = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[Lstrevmld]+| ?N+| ?[S']+|[ W]+(?![^ W])|[ W]+")
CONTRACTED = "strevmld"


@lru_cache(maxsize=1 << 16)
def _sort(character: str) -> str:
    if character in CONTRACTED or character in " '":
        return character
    if character.isspace() and not "\x1c" <= character <= "\x1f":
        return "W"
    return {"L": "L", "N": "N"}.get(unicodedata.category(character)[0], "S")


def cut(text: str) -> list[str]:
    """Cuts a text into pieces: contractions, words, numbers and signs, each with a space before it, and white space.

    Example:
        >>> cut("It's 12 o'clock,  sir!")
        ['It', "'s", ' 12', ' o', "'", 'clock', ',', ' ', ' sir', '!']
    """
    return [text[m.start() : m.end()] for m in CUT.finditer("".join(map(_sort, text)))]


def _shown() -> list[str]:
    """How each byte is written in a vocabulary: visible ones of Latin-1 as they are, the others from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]


SHOWN = _shown()
BYTES = {shown: byte for byte, shown in enumerate(SHOWN)}


@dataclass(frozen=True, kw_only=True)
class ByteBPEConfig:
    """Sub-words of bytes, of a file ``tokenizer.json`` in the format of Hugging Face's `tokenizers`."""

    path: str | None = None
    """The file. Not read where an archive brings ``tokenizer.json`` along."""

    def build(self, files: Mapping[str, bytes] = EMPTY) -> "ByteBPE":
        """Returns the tokenizer.

        Args:
            files: what an archive brings, ``tokenizer.json`` among it.

        Raises:
            ConfigError: the file is missing or broken, or asks for what cannot be had here.
        """
        return ByteBPE(read_file(ByteBPE.FILE, self.path, files))


class ByteBPE:
    """Writes text as sub-words of bytes; added tokens that are special stand for no text.

    Args:
        data: contents of the file.

    Raises:
        ConfigError: the file is broken, or asks for what cannot be had here.
    """

    FILE = "tokenizer.json"

    def __init__(self, data: bytes) -> None:
        self._data = data
        tree = _tree(data)
        vocab, merges = _model(tree)
        added = _added(tree)
        units = {**{number: piece for piece, number in vocab.items()}, **{number: text for text, number, _ in added}}
        self.vocab_size = max(units) + 1
        self.pieces: list[str] = [units.get(number, f"<{number}>") for number in range(self.vocab_size)]
        self.special = {number for _, number, special in added if special}
        """Numbers of the tokens that stand for no text."""
        self.end: int | None = next((number for text, number, _ in added if text == END), None)
        self._plain = {number: text for text, number, special in added if not special}
        self._prefix = tree["pre_tokenizer"].get("add_prefix_space") is True
        self._numbers, self._ranks = vocab, {pair: rank for rank, pair in enumerate(merges)}
        self._given = {text: number for text, number, special in added if not special}
        spelled = sorted(self._given, key=len, reverse=True)
        self._split = re.compile("|".join(map(re.escape, spelled))) if spelled else None
        self.sizes = [self._size(number) for number in range(self.vocab_size)]
        self._join = lru_cache(REMEMBERED)(self._joined)

    def _size(self, number: int) -> int:
        """Bytes that a unit stands for."""
        if number in self._plain:
            return len(self._plain[number].encode())
        return 0 if number in self.special else len(self.pieces[number])

    def encode(self, text: str) -> list[int]:
        """Returns the numbers of the sub-words; a mark that is spelled out in the text is written as text."""
        if self._split is None:
            return self._words(text)
        found, at = [], 0
        for match in self._split.finditer(text):
            found += [*self._words(text[at : match.start()]), self._given[match[0]]]
            at = match.end()
        return [*found, *self._words(text[at:])]

    def _words(self, text: str) -> list[int]:
        if self._prefix and text and text[0] != " ":
            text = f" {text}"
        return [unit for piece in cut(text) for unit in self._join(piece)]

    def _joined(self, piece: str) -> tuple[int, ...]:
        """The units of one piece: of all neighbours, the pair that was learned first is joined, until none is left."""
        parts = [SHOWN[byte] for byte in piece.encode("utf-8", "replace")]
        while len(parts) > 1:
            best = min(range(len(parts) - 1), key=lambda i: self._ranks.get((parts[i], parts[i + 1]), MAX_UNITS))
            if (pair := (parts[best], parts[best + 1])) not in self._ranks:
                break
            parts = joined(parts, pair, "".join(pair))
        return tuple(self._numbers[part] for part in parts)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of units without the marks; what is no UTF-8 becomes a replacement character."""
        text, run = [], bytearray()
        for number in ids:
            if number in self._plain:
                text += [run.decode(errors="replace"), self._plain[number]]
                run = bytearray()
            elif number not in self.special:
                run += bytes(BYTES.get(character, 0x3F) for character in self.pieces[number])
        return "".join([*text, run.decode(errors="replace")])

    def files(self) -> dict[str, bytes]:
        """Returns the file."""
        return {self.FILE: self._data}


def joined(pieces: list[str], pair: tuple[str, str], both: str) -> list[str]:
    """Returns the pieces with each of a pair made one, from the left.

    Args:
        pieces: of a word.
        pair: neighbours.
        both: what they become.
    """
    made: list[str] = []
    for piece in pieces:
        if made and (made[-1], piece) == pair:
            made[-1] = both
        else:
            made.append(piece)
    return made


# --- the file ---------------------------------------------------------------------------------------------------------

Added = tuple[str, int, bool]
MARK = re.compile(r"<\|.*\|>", re.DOTALL)

# What the file may say, where it matters; what is not named here changes nothing.
ALLOWED: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "pre_tokenizer": {"type": ("ByteLevel",), "use_regex": (True, None)},
    "decoder": {"type": ("ByteLevel",)},
    "model": {
        "type": ("BPE", None),
        "dropout": (None, 0.0),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
        "byte_fallback": (None, False),
        "ignore_merges": (None, False),
    },
}


def _tree(data: bytes) -> dict[str, Any]:
    """The tree of the file, checked for what cannot be had here."""
    try:
        tree: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"`{ByteBPE.FILE}` cannot be read: {error}.") from error
    must(isinstance(tree, dict), ByteBPE.FILE, "a mapping", value=type(tree).__name__)
    must(tree.get("normalizer") is None, f"{ByteBPE.FILE}: normalizer", "null to be read", value=tree.get("normalizer"))
    for part, settings in ALLOWED.items():
        group: Any = tree.get(part)
        must(isinstance(group, dict), f"{ByteBPE.FILE}: {part}", "a group of settings", value=group)
        for name, values in settings.items():
            value = group.get(name)
            shown = " or ".join(map(repr, values))
            must(value in values, f"{ByteBPE.FILE}: {part}.{name}", f"{shown} to be read", value=value)
    return tree


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_UNITS


def _model(tree: Mapping[str, Any]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Unit -> number, and the pairs in the order in which they were learned."""
    vocab, merges = tree["model"].get("vocab"), tree["model"].get("merges")
    where = f"{ByteBPE.FILE}: model"
    numbered = isinstance(vocab, dict) and all(map(_number, vocab.values())) and len({*vocab.values()}) == len(vocab)
    must(numbered and bool(vocab), f"{where}.vocab", "a mapping from unit to a number of its own", value=type(vocab))
    lacking = [shown for shown in SHOWN if shown not in vocab]
    must(not lacking, f"{where}.vocab", "with a unit for each byte", value=f"{256 - len(lacking)} of them")
    must(isinstance(merges, list), f"{where}.merges", "a list of pairs", value=type(merges))
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) if isinstance(pair, list) else ()
             for pair in merges]  # fmt: skip
    for pair in pairs:
        fits = len(pair) == 2 and all(isinstance(part, str) and part in vocab for part in (*pair, "".join(pair)))
        must(fits, f"{where}.merges", "pairs of units that make a unit", value=pair)
    return vocab, pairs  # type: ignore[return-value]  # `fits` says so


def _added(tree: Mapping[str, Any]) -> list[Added]:
    """Tokens beside the learned ones: text, number, and whether they stand for no text, as marks do."""
    entries = tree.get("added_tokens") or []
    where = f"{ByteBPE.FILE}: added_tokens"
    must(isinstance(entries, list), where, "a list", value=type(entries))
    for entry in entries:
        fits = isinstance(entry, dict) and _number(entry.get("id")) and isinstance(entry.get("content"), str)
        must(fits and bool(entry["content"]), where, "a list of tokens with `id` and `content`", value=entry)
    return [
        (entry["content"], entry["id"], bool(entry.get("special")) or MARK.fullmatch(entry["content"]) is not None)
        for entry in entries
    ]
