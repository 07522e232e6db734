"""Manifests in: JSON lines become one columnar index, and what is wrong with a line is said.

A manifest has one JSON object a line: ``audio_filepath`` (or ``audio_filename``), ``duration``, ``text`` or ``label``
(or ``command``), ``offset``, and any further keys; one with ``"_skipme": true`` is passed over. Audio paths are
relative to the manifest. The index is an Arrow table in a file of the cache, memory-mapped: no Python object stands for
an utterance, and a million of them cost no memory of the process. The file's name is a hash of what the manifests hold,
so an index is never stale.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anemone.cache import cache_folder
from anemone.config import nearest
from anemone.data.jsonlines import OWN, text_of
from anemone.data.locators import name_of
from anemone.data.problems import Problem, no_utterances, report
from anemone.errors import DataError

VERSION = 3  # of the index's layout; another number makes all cached indexes unknown

log = logging.getLogger("anemone.data")


class Row(NamedTuple):
    """One utterance.

    Attributes:
        audio: the recording's locator, most often a path.
        offset: seconds into it.
        duration: seconds.
        target: its text or label.
        source: the manifest.
        line: its line there, from 1.
        id: its name; draws of augmentation depend on it.
        channel: of the recording, from 0, where the source says which.
    """

    audio: str
    offset: float
    duration: float
    target: str
    source: str
    line: int
    id: str
    channel: int | None = None


class Index:
    """The utterances of some manifests, by columns.

    Attributes:
        table: columns ``@audio``, ``@offset``, ``@duration``, ``@target``, ``@source``, ``@line``; then further keys.
        problems: the lines that were left out.
        fingerprint: hash of what the manifests hold.
        durations: (N,) float32 seconds.
    """

    noun: ClassVar[str] = "utterance"

    def __init__(self, table: pa.Table, path: Path | None = None) -> None:
        self.table, self.path = table, path
        notes = json.loads(table.schema.metadata[b"anemone"])
        self.problems = [Problem(*problem) for problem in notes["problems"]]
        self.fingerprint: str = notes["fingerprint"]
        self._sources: list[str] = notes["sources"]
        self._sets: list[int] = notes["sets"]
        self.durations: npt.NDArray[np.float32] = table["@duration"].to_numpy().astype(np.float32)

    @classmethod
    def read(
        cls, manifests: Sequence[str | Path], *, target: Literal["text", "label"], skip_bad: bool = True
    ) -> "Index":
        """Reads manifests, or finds their index in the cache.

        Args:
            manifests: files, patterns such as ``train_{0..7}.jsonl``, folders or URLs of whatever format
                `anemone.data.sources` has; ``assets/...`` is looked up inside the package.
            target: the key a task learns from.
            skip_bad: whether to leave out bad lines with a report, or to refuse them.

        Raises:
            DataError: no such manifest, no usable line in all of them, or a bad line where these are refused.
        """
        if not manifests:
            raise DataError("the list of manifests must name one or more, but is empty.")
        from anemone.data.indexing import build, parts_of

        parts = [part for number, manifest in enumerate(manifests) for part in parts_of(os.fspath(manifest), number)]
        home = os.path.expanduser("~")
        key = json.dumps([VERSION, target, home, [[os.path.abspath(part.path), *part] for part in parts]])
        path = cache_folder() / "index" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
        index = cls._open(path)
        if index is None or index._texts_changed():
            index = cls._store(build(parts, target), path)
        report(index.problems, len(index) + len(index.problems), skip_bad=skip_bad)
        if not len(index):
            raise no_utterances([part.path for part in parts], index.problems)
        return index

    @classmethod
    def _open(cls, path: Path) -> "Index | None":
        """The index in a file, memory-mapped; None if there is none, or a broken one."""
        try:
            with pa.memory_map(os.fspath(path)) as file:
                return cls(pa.ipc.open_file(file).read_all(), path)
        except (OSError, pa.ArrowInvalid, KeyError, TypeError):
            return None

    @classmethod
    def _store(cls, table: pa.Table, path: Path) -> "Index":
        """Writes a table beside its place, moves it there in one step and opens it; keeps it in memory if it cannot."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
                with pa.ipc.new_file(file, table.schema) as writer:
                    writer.write_table(table)
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, path)
        except OSError as error:
            log.warning("the index of the manifests cannot be kept in %s (%s): it stays in memory", path.parent, error)
            return cls(table)
        return cls._open(path) or cls(table)

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.durations)

    def row(self, i: int) -> Row:
        """Returns utterance ``i``."""
        return self.rows([i])[0]

    def rows(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> list[Row]:
        """Returns some utterances, in the order asked for."""
        take = pa.array(numbers, pa.int64())
        columns = [self.table[name].take(take).to_pylist() for name in (*OWN, "@source")]
        more = self.ids(numbers), self._channels(take)
        return [
            Row(a, o, d, t, self._sources[s], n, i, c) for a, o, d, t, n, s, i, c in zip(*columns, *more, strict=True)
        ]

    def _channels(self, take: pa.Array) -> list[int | None]:
        """The channels of some utterances."""
        if "channel" not in self.table.column_names or not pa.types.is_integer(self.table.schema.field("channel").type):
            return [None] * len(take)
        channels: list[int | None] = self.table["channel"].take(take).to_pylist()
        return channels

    def ids(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
        """Returns the names of some utterances: the key ``id``, else the recording's stem with ``@`` and its offset."""
        take = pa.array(numbers, pa.int64())
        audios, offsets = (self.table[name].take(take).to_pylist() for name in ("@audio", "@offset"))
        own = self.table["id"].take(take).to_pylist() if "id" in self.columns else [None] * len(audios)
        return [
            name_of(audio, offset) if name is None else str(text_of(name))
            for name, audio, offset in zip(own, audios, offsets, strict=True)
        ]

    @property
    def sets(self) -> npt.NDArray[np.int32]:
        """Which of the paths that were read each utterance comes from, from 0: (N,)."""
        numbers: npt.NDArray[np.int32] = np.array(self._sets, np.int32)[self.table["@source"].to_numpy()]
        return numbers

    def _texts_changed(self) -> bool:
        """Whether texts in files of their own are not as they were."""
        from anemone.data.indexing import state_of_texts

        found = state_of_texts(self.table, self._sources)
        return found is not None and found != json.loads(self.table.schema.metadata[b"anemone"])["texts"]

    @property
    def seconds(self) -> float:
        """Seconds of all utterances."""
        return float(self.durations.sum(dtype="float64"))

    @property
    def extent(self) -> str:
        """How much audio it is, in hours."""
        return f"of {self.seconds / 3600:.2f} h"

    def name(self, number: int) -> str:
        """Manifest, line and recording of an utterance."""
        row = self.row(number)
        return f"{row.source}:{row.line} ({row.audio})"

    def describe(self) -> dict[str, Any]:
        """Rows, seconds, fingerprint and left-out lines."""
        return {
            "rows": len(self),
            "seconds": round(self.seconds, 3),
            "fingerprint": self.fingerprint,
            "left_out": len(self.problems),
        }

    @property
    def labels(self) -> list[str]:
        """The different targets, sorted."""
        return sorted(pc.unique(self.table["@target"]).to_pylist())

    @property
    def columns(self) -> list[str]:
        """Names of the further columns: the manifests' keys that the index itself does not need."""
        return [name for name in self.table.column_names if name not in {*OWN, "@source"}]

    def column(self, name: str) -> pa.ChunkedArray:
        """Returns a further column; null where a line has no such key.

        A key whose values have no type in common is a column of strings: strings as they are, others as JSON.

        Raises:
            DataError: no line has such a key.
        """
        if name not in self.columns:
            raise DataError(f"`{name}` is not a further column of the manifests.{nearest(name, self.columns)}")
        return self.table[name]

    def values(self, numbers: Sequence[int] | npt.NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns what some utterances have in further columns, by name; None where a line has no such key."""
        take = pa.array(numbers, pa.int64())
        there = [name for name in names if name in self.columns]
        found = [self.table[name].take(take).to_pylist() for name in there]
        nothing = dict.fromkeys(names)
        return [nothing | dict(zip(there, row, strict=True)) for row in zip(*found, strict=True)] or [
            dict(nothing) for _ in numbers
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same file; a table without one travels."""
        return (_reopen, (self.path,)) if self.path else (Index, (self.table,))


def _reopen(path: Path) -> Index:
    index = Index._open(path)
    if index is None:
        raise DataError(f"`{path}` must be an index that the main process wrote, but cannot be opened.")
    return index
