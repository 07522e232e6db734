"""Rows that are there twice: in one set, and in several sets that should have nothing in common."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anemone.data.columns import Columns
from anemone.data.quality.rules import LIMITS, Found
from anemone.data.quality.sound import Measures
from anemone.data.quality.texts import place, repeated, short


def hashes(measures: Measures) -> pa.ChunkedArray:
    """Returns the hash of each piece's samples as a column; null where there is none, or only zeros."""
    data = np.ascontiguousarray(measures["hash"]).tobytes()
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(measures), [None, pa.py_buffer(data)])
    known = (measures["cause"] == 0) & (measures["peak"] > 0)
    return pa.chunked_array([pc.if_else(pa.array(known), column, pa.scalar(None, pa.binary(16)))])


def check_copies(columns: Columns, measures: Measures, *, near: bool) -> Iterator[Found]:
    """Yields the pieces of a set that sound exactly, or nearly, as one before."""
    index = columns.index
    rows, before = repeated([hashes(measures)])
    yield Found("duplicate-audio", rows, before, lambda row: f"as {place(index, row)}")
    if near:
        pairs = near_pairs(np.where(measures["cause"] == 0, measures["outline"], 0), measures["seconds"])
        pairs = pairs[~np.isin(pairs[:, 0], rows)]
        yield Found("near-duplicate-audio", pairs[:, 0], pairs[:, 1], lambda row: f"as {place(index, row)}")


def check_sets(sets: Mapping[str, Columns], measures: Mapping[str, Measures]) -> Iterator[tuple[str, Found]]:
    """Yields, with the name of the later set, its rows that have something in common with a set before it."""
    names = list(sets)
    keys = {rule: {name: _key(sets[name], rule, measures.get(name)) for name in names} for rule in KEYS}
    for rule, columns in keys.items():
        for number, name in enumerate(names):
            for other in names[:number]:
                one, two = columns[name], columns[other]
                if one is not None and two is not None:
                    yield name, _common(rule, one, two, other, sets[other], told=rule in TOLD)


KEYS = ("speaker-in-sets", "text-in-sets", "piece-in-sets", "audio-in-sets")
TOLD = ("speaker-in-sets", "text-in-sets")  # where the value says more than the row that has it too


def _key(columns: Columns, rule: str, measures: Measures | None) -> pa.ChunkedArray | None:
    """What two rows must not have in common; None where a set has no such thing."""
    if rule == "speaker-in-sets":
        return columns["speaker"].cast(pa.string()) if "speaker" in columns else None
    if rule == "text-in-sets":
        return columns.get("text")
    if rule == "piece-in-sets":
        milliseconds = pc.round(pc.multiply(columns["offset"], 1000)).cast(pa.int64()).cast(pa.string())
        return pc.binary_join_element_wise(columns["audio"], milliseconds, "@")
    return None if measures is None else hashes(measures)


def _common(
    rule: str, one: pa.ChunkedArray, two: pa.ChunkedArray, other: str, columns: Columns, *, told: bool
) -> Found:
    """Rows of ``one`` whose value is in ``two``, each with the first row there."""
    coded = two.combine_chunks().dictionary_encode()
    codes, first = np.unique(pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False), return_index=True)
    first = first[codes >= 0]
    where = pc.index_in(one, value_set=coded.dictionary, skip_nulls=True).combine_chunks()
    found = pc.is_valid(where).to_numpy(zero_copy_only=False)
    if pa.types.is_string(one.type):
        found = found & pc.fill_null(pc.not_equal(one, ""), False).to_numpy()
    rows = np.flatnonzero(found)
    values = pc.fill_null(where, 0).to_numpy(zero_copy_only=False)[rows]
    order = np.argsort(_times_before(values), kind="stable")  # different values first
    rows, before = rows[order], first[values[order]]

    def say(row: int) -> str:
        value = f"{short(str(two[row].as_py()))} is in `{other}` too, as " if told else f"in `{other}` as "
        return value + place(columns.index, row)

    return Found(rule, rows, before, say)


def _times_before(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How often each value (K,) was there before."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-1))
    times = np.empty_like(order)
    times[order] = np.arange(len(values)) - np.repeat(starts, np.diff([*starts, len(values)]))
    return times


def near_pairs(outlines: npt.NDArray[np.uint64], seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Returns pairs (K, 2) of pieces of like length whose outlines differ in few bits; each with the first alike.

    Outlines that differ in three bits at most agree in one of four quarters, so only those are compared.

    Args:
        outlines: (N,).
        seconds: (N,).
    """
    best = np.full(len(outlines), len(outlines), np.int64)
    usable = np.flatnonzero(outlines != 0)
    for quarter in range(4):
        part = (outlines[usable] >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = usable[np.lexsort((usable, seconds[usable], part))]
        key = (outlines[order] >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        for step in range(1, 64):
            one, two = order[:-step], order[step:]
            alike = (key[:-step] == key[step:]) & (np.abs(seconds[two] - seconds[one]) < 0.02 * seconds[two] + 0.02)
            if not alike.any():
                break
            one, two = one[alike], two[alike]
            bits = np.bitwise_count(outlines[one] ^ outlines[two]) <= LIMITS["near_bits"]
            low, high = np.minimum(one, two)[bits], np.maximum(one, two)[bits]
            np.minimum.at(best, high, low)
    rows = np.flatnonzero(best < len(outlines))
    return np.stack([rows, best[rows]], axis=1)
