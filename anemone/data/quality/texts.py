"""What is wrong with rows by what their lines say, without a look at a recording."""

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anemone.data.columns import Columns, slices
from anemone.data.manifest import Index
from anemone.data.quality.alphabet import alphabet, coded, odd, shown
from anemone.data.quality.rules import LIMITS, Found

Rows = npt.NDArray[np.int64]


def check_lines(columns: Columns) -> Iterator[Found]:
    """Yields what breaks a rule in what a set's lines say."""
    index = columns.index
    rows, before = repeated([columns[key] for key in ("audio", "offset", "duration")])
    yield Found("duplicate-piece", rows, before, lambda row: f"as {place(index, row)}")
    if "id" in index.columns:
        rows, before = repeated([columns["id"]])
        yield Found("duplicate-id", rows, before, lambda row: f"as {place(index, row)}")
    for key in index.columns:
        column = index.table[key]
        if 0 < column.null_count <= (1 - LIMITS["key_share"]) * len(index):
            rows = np.flatnonzero(pc.is_null(column).to_numpy())
            yield Found("missing-key", rows, np.full(len(rows), key))
    if "text" in columns:
        yield from _texts(columns)


def _texts(columns: Columns) -> Iterator[Found]:
    """What is wrong with texts."""
    text, index = columns["text"], columns.index
    yield _odd(text)
    flags: dict[str, list[Rows]] = {"empty-text": [], "not-normalised": [], "untidy-space": []}
    for piece in slices(len(text)):
        part = pc.fill_null(text[piece], "").combine_chunks()
        blank = pc.equal(pc.utf8_trim_whitespace(part), "")
        untidy = pc.and_not(pc.match_substring_regex(part, r"^\s|\s$|\s\s|[\t\n\r\f\v]"), blank)
        wide = np.flatnonzero(pc.not_equal(pc.binary_length(part), pc.utf8_length(part)).to_numpy(zero_copy_only=False))
        other = [i for i in wide.tolist() if not unicodedata.is_normalized("NFC", part[i].as_py())]
        for rule, rows in (
            ("empty-text", np.flatnonzero(blank.to_numpy(zero_copy_only=False))),
            ("untidy-space", np.flatnonzero(untidy.to_numpy(zero_copy_only=False))),
            ("not-normalised", np.array(other, np.int64)),
        ):
            flags[rule].append(rows + piece.start)
    for rule, parts in flags.items():
        rows = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        yield Found(rule, rows, rows, lambda row: short(text[row].as_py()))
    rows, before = repeated([text])
    yield Found("duplicate-text", rows, before, lambda row: f"as {place(index, row)}: {short(text[row].as_py())}")
    yield _rate(columns)


def _odd(text: pa.ChunkedArray) -> Found:
    """Texts with odd characters, each with the first of them."""
    why = odd(alphabet(text))
    found, values = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
    strange = np.array([ord(character) for character in why], np.uint32)
    if len(strange):
        for start, codes, rows in coded(text):
            places = np.flatnonzero(np.isin(codes, strange))
            first, at = np.unique(rows[places], return_index=True)
            found.append(first + start)
            values.append(codes[places[at]])
    return Found(
        "odd-character",
        np.concatenate(found),
        np.concatenate(values),
        lambda code: f"{shown(chr(code))} ({unicodedata.name(chr(code), 'without a name')}): {why[chr(code)]}",
    )


def _rate(columns: Columns) -> Found:
    """Texts that are far too long or too short for their durations."""
    rates = columns["char_rate"].to_numpy()
    rows = np.flatnonzero(np.nan_to_num(rates) > 0)
    logs = np.log(rates[rows])
    z = robust_z(logs) if len(rows) >= LIMITS["rate_rows"] else np.zeros(len(rows))
    far = np.abs(z) > LIMITS["rate_z"]
    far[far] = np.abs(logs[far] - np.median(logs)) > np.log(LIMITS["rate_factor"])
    pairs = np.stack([rates[rows][far], z[far]], axis=1)
    return Found("speaking-rate", rows[far], pairs, lambda pair: f"{pair[0]:.3g} characters/s, z = {pair[1]:+.1f}")


def robust_z(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns how many standard deviations values lie from the median, if the middle half is as of a normal's.

    0.6745 (x - median) / median of |x - median| (Iglewicz and Hoaglin, 1993). Where more than half of the values are
    the same, that median is 0, and (x - median) / (1.2533 mean of |x - median|) takes its place.

    Args:
        values: (N,).
    """
    if not len(values):
        return values
    away = values - np.median(values)
    scale = np.median(np.abs(away)) / 0.6745 or 1.2533 * np.abs(away).mean()
    return away / scale if scale > 0 else np.zeros_like(away)


def repeated(columns: Sequence[pa.ChunkedArray]) -> tuple[Rows, Rows]:
    """Returns the rows whose values were all there before, and the first rows that had them.

    Args:
        columns: the values of a row; one that is null, or an empty text, is never like another.
    """
    codes, usable = np.zeros(len(columns[0]), np.int64), np.ones(len(columns[0]), np.bool_)
    for column in columns:
        plain = column.combine_chunks()
        more = plain.dictionary_encode().indices
        usable &= pc.is_valid(plain).to_numpy(zero_copy_only=False)
        if pa.types.is_string(plain.type):
            usable &= pc.not_equal(pc.fill_null(plain, ""), "").to_numpy(zero_copy_only=False)
        number = pc.fill_null(more, 0).to_numpy().astype(np.int64)
        codes = np.unique(codes * (int(number.max(initial=0)) + 1) + number, return_inverse=True)[1]
    rows = np.flatnonzero(usable)
    _, first, which = np.unique(codes[rows], return_index=True, return_inverse=True)
    before = rows[first][which]
    again = rows != before
    return rows[again], before[again]


def place(index: Index, number: int) -> str:
    """Returns manifest and line of a row."""
    row = index.row(number)
    return f"{row.source}:{row.line}"


def short(text: str | None, longest: int = 60) -> str:
    """Returns the beginning of a text, in quotes, as it can be printed anywhere."""
    plain = ascii_controls(text or "")
    return f'"{plain if len(plain) <= longest else plain[:longest] + "..."}"'


def ascii_controls(text: str) -> str:
    """Returns a text with a code in the place of each character that cannot be seen."""
    return "".join(c if c == " " or unicodedata.category(c)[0] not in "CZ" else shown(c) for c in text)
