"""The columns of an index by the names that people know: a manifest's keys, and what is counted from its texts.

``audio`` (or ``audio_filepath``), ``offset``, ``duration``, ``text`` or ``label``, ``id``, ``source``, ``line``, every
further key of the manifest, and, where there are texts and the manifest has no such keys of its own, ``chars`` and
``words`` of the text, ``char_rate`` and ``word_rate`` by the second.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anemone.config import nearest
from anemone.data.files import find
from anemone.data.locators import is_url
from anemone.data.manifest import Index
from anemone.data.sources import Utterance, source
from anemone.data.sources.detect import detect
from anemone.data.sources.names import expand
from anemone.data.sources.tarred import TARS
from anemone.errors import DataError

CHUNK = 65_536  # rows at a time, where a step needs memory for each

Target = Literal["text", "label"]


class Columns:
    """Columns by name; those that are not stored are computed when they are asked for.

    Args:
        index: what they are of.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        stored = {name: "@" + name for name in ("audio", "offset", "duration", "line")}
        stored |= {"audio_filepath": "@audio", self.target: "@target"}
        self._stored = stored | {name: name for name in index.columns}
        self._made: dict[str, Callable[[], pa.ChunkedArray]] = {
            "id": lambda: _ids(index),
            "source": lambda: _sources(index),
        }
        if "text" in self._stored:
            self._made |= {
                "chars": lambda: pc.utf8_length(self["text"]),
                "words": lambda: _words(self["text"]),
                "char_rate": lambda: pc.divide(self["chars"].cast("double"), self["duration"]),
                "word_rate": lambda: pc.divide(self["words"].cast("double"), self["duration"]),
            }

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """Returns a column.

        Raises:
            DataError: there is none of that name.
        """
        if name in self._stored:
            return self.index.table[self._stored[name]]
        if name in self._made:
            return self._made[name]()
        raise DataError(f"`{name}` is not a key of the data set.{nearest(name, list(self))}")

    def __iter__(self) -> Iterator[str]:
        """Yields names: the stored ones first."""
        return iter(dict.fromkeys([*self._stored, *self._made]))

    def __contains__(self, name: object) -> bool:
        """Whether there is a column of that name."""
        return name in self._stored or name in self._made

    def get(self, name: str) -> pa.ChunkedArray | None:
        """Returns a column, or None if there is none of that name."""
        known = name in self
        return self[name] if known else None

    @cached_property
    def target(self) -> Target:
        """Which name the index's own target has."""
        known: dict[str, Target] = {
            "text": "label",
            "label": "text",
            "command": "text",
        }  # a further key is the other one
        found = [known[name] for name in known if name in self.index.columns]
        return found[0] if found else target_of(source_names(self.index))


def opened(paths: Sequence[str | Path], target: Target | None = None) -> Index:
    """Reads data sets of which it need not be known what they teach.

    Args:
        paths: manifests, and whatever else `Index.read` takes.
        target: "text" or "label"; by default what the first line of the first has.

    Raises:
        DataError: as of `Index.read`.
    """
    return Index.read(paths, target=target or target_of(paths))


def target_of(paths: Sequence[str | Path]) -> Target:
    """Returns "label" where the first utterance of the first data set has one and no text; else "text"."""
    if not paths:
        return "text"
    try:
        name = os.path.expanduser(paths[0])
        if not (os.path.isdir(name) or TARS in name or is_url(name)):
            name = os.fspath(find(expand(name)[0], noun="manifest", pattern="*.json*"))
        some = islice(source(detect(name)).read(name), 100)
        first = next((row for row in some if isinstance(row, Utterance)), None)
    except (DataError, OSError):
        return "text"
    return "label" if first and first.text is None and first.label is not None else "text"


def slices(number: int, size: int = CHUNK) -> Iterator[slice]:
    """Yields slices that cover so many rows, each of ``size`` rows but the last."""
    for start in range(0, number, size):
        yield slice(start, min(start + size, number))


def _words(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Words of each text, split at white space."""
    return pa.chunked_array([_word_counts(text[piece]) for piece in slices(len(text))], pa.int32())


def split_words(text: pa.ChunkedArray) -> pa.Array:
    """Returns the words of each text, split at white space; of an empty one, one empty word.

    Texts are trimmed first: where the last one of all ends in white space, pyarrow 26 may read on behind it.
    """
    return pc.utf8_split_whitespace(pc.utf8_trim_whitespace(text).combine_chunks())


def _word_counts(text: pa.ChunkedArray) -> pa.Array:
    words = split_words(text)
    empty = pc.equal(pc.list_element(words, 0), "")
    return pc.if_else(empty, 0, pc.list_value_length(words)).cast(pa.int32())


def _ids(index: Index) -> pa.ChunkedArray:
    """The id of each row."""
    pieces = [index.ids(np.arange(piece.start, piece.stop)) for piece in slices(len(index))]
    return pa.chunked_array([pa.array(piece, pa.string()) for piece in pieces])


def _sources(index: Index) -> pa.ChunkedArray:
    """The file of each row."""
    numbers = index.table["@source"].combine_chunks()
    names = source_names(index)
    return pa.chunked_array([pa.DictionaryArray.from_arrays(numbers, pa.array(names, pa.string())).cast(pa.string())])


def source_names(index: Index) -> list[str]:
    """Returns the files of an index by their number in ``@source``; empty for one of which no row is left."""
    numbers = index.table["@source"].to_numpy()
    found, first = np.unique(numbers, return_index=True)
    names = [""] * (int(found.max()) + 1)
    for number, row in zip(found.tolist(), first.tolist(), strict=True):
        names[number] = index.row(row).source
    return names
