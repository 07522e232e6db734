"""A data set in parts that share no speaker (or no other key), the same parts each time.

Which part a group of rows goes to is told by a hash of its key and nothing else, so a set that grows keeps the parts
of what it had: no row ever moves from training to test. The shares are then met in the mean, the better the more
groups there are. With `exact`, or within each value of `stratify`, groups are dealt out in the order of their hashes
to the part that lacks most: the shares are met as nearly as groups allow, but a set that grows may move some.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anemone.config import must
from anemone.data.columns import Columns
from anemone.data.manifest import Index
from anemone.errors import DataError

Rows = npt.NDArray[np.int64]


def split(
    index: Index,
    parts: Mapping[str, float],
    *,
    by: str = "audio",
    stratify: str | None = None,
    exact: bool = False,
    seed: int = 0,
) -> dict[str, Rows]:
    """Returns the rows of each part, ascending.

    Args:
        index: the data set.
        parts: name -> share; shares are above 0, and their sum is 1.
        by: no two parts have a value of this key in common.
        stratify: a key of which every part gets its share of each value; of a group, its most frequent value counts.
        exact: whether to meet the shares as nearly as groups allow, even if a set that grows then moves some.
        seed: another one gives other parts.

    Raises:
        ConfigError: shares that are none.
        DataError: a row lacks the key, or a part gets no row.
    """
    must(len(parts) > 0 and all(0 < share <= 1 for share in parts.values()), "parts", "shares above 0", value=parts)
    must(abs(sum(parts.values()) - 1) < 1e-6, "parts", "shares whose sum is 1", value=dict(parts))
    columns = Columns(index)
    codes, keys = _coded(columns, by)
    places = np.array([_place(key, seed) for key in keys])
    strata = _coded(columns, stratify)[0] if stratify else np.zeros(len(index), np.int64)
    chosen = _dealt(codes, places, strata, parts) if exact or stratify else _cut(places, parts)
    found = {name: np.flatnonzero(chosen[codes] == number) for number, name in enumerate(parts)}
    for name, rows in found.items():
        if not len(rows):
            more = "" if exact or stratify else ", or ask for exact shares"
            raise DataError(f"the part `{name}` gets no row: `{by}` has {len(keys)} values. Take another seed{more}.")
    return found


def _coded(columns: Columns, name: str) -> tuple[Rows, list[str]]:
    """The number of each row's value, and the values as texts."""
    column = columns[name]
    if column.null_count:
        first = columns.index.name(int(np.flatnonzero(pc.is_null(column).to_numpy())[0]))
        raise DataError(f"every row must have `{name}`, but {column.null_count:,} lack it; the first: {first}.")
    if pa.types.is_nested(column.type):
        column = pa.chunked_array([pa.array([json.dumps(value, sort_keys=True) for value in column.to_pylist()])])
    coded = column.combine_chunks().dictionary_encode()
    return coded.indices.to_numpy().astype(np.int64), [str(value) for value in coded.dictionary.to_pylist()]


def _place(key: str, seed: int) -> float:
    """Where in [0, 1) a key lies: uniform over keys, and nothing but (seed, key) counts."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _cut(places: npt.NDArray[np.float64], parts: Mapping[str, float]) -> Rows:
    """The part of each group: the one in whose piece of [0, 1) it lies."""
    ends = np.cumsum(list(parts.values()))[:-1]
    return np.searchsorted(ends, places, side="right").astype(np.int64)


def _dealt(codes: Rows, places: npt.NDArray[np.float64], strata: Rows, parts: Mapping[str, float]) -> Rows:
    """The part of each group: in the order of their places, the one that lacks most rows of the group's stratum."""
    number = len(places)
    sizes = np.bincount(codes, minlength=number)
    pairs, counts = np.unique(codes * (int(strata.max()) + 1) + strata, return_counts=True)
    stratum = np.zeros(number, np.int64)
    order = np.argsort(counts, kind="stable")  # the most frequent one is written last
    stratum[pairs[order] // (int(strata.max()) + 1)] = pairs[order] % (int(strata.max()) + 1)
    wanted = np.array(list(parts.values()))
    lacks: Any = np.bincount(stratum, sizes, minlength=int(stratum.max()) + 1)[:, None] * wanted[None]
    chosen = np.zeros(number, np.int64)
    for group in np.lexsort((places, stratum)).tolist():
        part = int(np.argmax(lacks[stratum[group]] / wanted))
        chosen[group] = part
        lacks[stratum[group], part] -= sizes[group]
    return chosen
