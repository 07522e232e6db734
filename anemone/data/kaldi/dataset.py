"""Features of Kaldi by columns: where each utterance's matrix lies, how long it is, and what is learned from it."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import pyarrow as pa

from anemone.cache import cache_folder
from anemone.config import nearest, stem
from anemone.data.files import digest
from anemone.data.kaldi.cmvn import Norm, normalize
from anemone.data.kaldi.folder import find, kept, number, speakers
from anemone.data.kaldi.matrices import Array
from anemone.data.kaldi.places import Arks, Entry, Place, is_command, output_of, parse_place, read_table
from anemone.data.manifest import Index
from anemone.data.problems import Problem, no_utterances, report
from anemone.errors import DataError

VERSION = 1  # of the index's layout; another number makes all cached indexes unknown
SCP = "feats.scp"
TABLES = ("text", "utt2label", "utt2spk", "spk2utt", "utt2num_frames", "utt2dur", "cmvn.scp")
SHAPE = {
    "@audio": pa.string(),
    "@offset": pa.float64(),
    "@duration": pa.float64(),
    "@target": pa.string(),
    "@line": pa.int32(),
    "@source": pa.int32(),
    "id": pa.string(),
    "speaker": pa.string(),
    "frames": pa.int32(),
    "cmvn": pa.string(),
}


class Reading(NamedTuple):
    """How directories become columns."""

    target: Literal["text", "label"]
    hop_ms: float
    trust_commands: bool


class KaldiFeatureDataset(Index):
    """The utterances of some ``feats.scp``, by columns; a matrix is read when it is asked for.

    An index as those of manifests are: a recording's place is that of the matrix, and beside it there are the columns
    ``id``, ``speaker``, ``frames`` and ``cmvn``, the place of the statistics of the utterance or its speaker.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from anemone.data.kaldi.places import write_ark
        >>> with TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     count = write_ark(folder / "a.ark", iter([("a", np.ones((7, 3)))]), folder / "feats.scp")
        ...     written = (folder / "text").write_text("a hello")
        ...     dataset = KaldiFeatureDataset.read([folder], target="text")
        ...     dataset.row(0).target, dataset.features(0).shape, dataset.durations.tolist()
        ('hello', (7, 3), [0.07...])
    """

    noun: ClassVar[str] = "utterance"

    @classmethod
    def read(
        cls,
        manifests: Sequence[str | Path],
        *,
        target: Literal["text", "label"],
        skip_bad: bool = True,
        hop_ms: float = 10.0,
        trust_commands: bool = False,
    ) -> "KaldiFeatureDataset":
        """Reads tables, or finds their index in the cache.

        Args:
            manifests: data directories, or the paths of ``feats.scp`` in them.
            target: "text", or "label", which is what ``utt2label`` says, or ``text`` where that is not there.
            skip_bad: whether to leave out bad lines with a report, or to refuse them.
            hop_ms: from frame to frame.
            trust_commands: whether commands in ``feats.scp`` may run.

        Raises:
            DataError: no such directory, no usable line in all of them, or a bad line where these are refused.
        """
        if not manifests:
            raise DataError("the list of data directories must name one or more, but is empty.")
        tables = [find_table(path) for path in manifests]
        hashes = [[digest(file) for name in (SCP, *TABLES) if (file := t.parent / name).is_file()] for t in tables]
        reading = Reading(target, hop_ms, trust_commands)
        key = json.dumps(["kaldi", VERSION, os.getcwd(), reading, [str(t.absolute()) for t in tables], hashes])
        path = cache_folder() / "index" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
        index = cls._open(path)
        if index is None:
            fingerprint = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]
            index = cls._store(_build(tables, reading, fingerprint), path)
        assert isinstance(index, KaldiFeatureDataset)
        report(index.problems, len(index) + len(index.problems), skip_bad=skip_bad)
        if not len(index):
            raise no_utterances(list(map(str, tables)), index.problems)
        return index

    def features(self, number: int, norm: Norm = "none") -> Array:
        """Returns the matrix (T, F) of an utterance.

        Args:
            number: of the utterance.
            norm: what to normalise by the statistics of its speaker, or its own.

        Raises:
            DataError: there is no matrix at its place, or there are no statistics.
        """
        (matrix,) = Matrices(norm).of(self, [number])
        if isinstance(matrix, DataError):
            raise matrix
        return matrix

    @property
    def width(self) -> int | None:
        """Features of a frame, as the first matrix has them; None where that cannot be read."""
        width: int | None = json.loads(self.table.schema.metadata[b"anemone"])["width"]
        return width

    @property
    def num_frames(self) -> int:
        """Frames of all utterances."""
        return int(self.table["frames"].to_numpy().sum())

    def describe(self) -> dict[str, Any]:
        """Rows, frames, seconds, fingerprint and left-out lines."""
        return super().describe() | {"frames": self.num_frames}


class Matrices:
    """Features by utterance, normalised; files and statistics stay at hand.

    Args:
        norm: what to normalise.
    """

    def __init__(self, norm: Norm = "none") -> None:
        self.norm, self.arks = norm, Arks()
        self._stats: dict[str, Array] = {}

    def of(self, index: Index, numbers: Sequence[int]) -> list[Array | DataError]:
        """Returns the matrix (T, F) of each utterance, or why it cannot be used."""
        take = pa.array(numbers, pa.int64())
        places, stats = (index.table[name].take(take).to_pylist() for name in ("@audio", "cmvn"))
        return [self._one(place, own) for place, own in zip(places, stats, strict=True)]

    def _one(self, place: str, stats: str | None) -> Array | DataError:
        try:
            matrix = self.arks.read(parse_place(place, place))
            if matrix.ndim != 2 or not len(matrix):
                raise DataError(f"`{place}` must be a matrix with frames, but has shape {matrix.shape}.")
            if self.norm == "none":
                return matrix
            if stats is None:
                raise DataError("has no statistics in cmvn.scp, neither of its own nor of its speaker's.")
            if stats not in self._stats:
                self._stats[stats] = self.arks.read(parse_place(stats, stats))
            return normalize(matrix, self._stats[stats], self.norm, f"`{stats}`")
        except DataError as error:
            return error


def brings_features(path: str | Path) -> bool:
    """Whether a path is that of a ``feats.scp``, or of a data directory that has one and no recordings."""
    given = Path(path).expanduser()
    return given.name == SCP or ((given / SCP).is_file() and not (given / "wav.scp").exists())


def find_table(path: str | Path) -> Path:
    """Returns the ``feats.scp`` of a data directory, or of its own path.

    Raises:
        DataError: there is none.
    """
    given = Path(path).expanduser()
    table = given / SCP if given.is_dir() else given
    if not table.is_file():
        siblings = [os.fspath(other.parent) for other in given.parent.glob(f"*/{SCP}")]
        hint = nearest(os.fspath(given), siblings, by=stem)
        raise DataError(f"`{path}` must be a data directory of Kaldi with a {SCP}, or the path of that file.{hint}")
    return table


def _build(tables: Sequence[Path], reading: Reading, fingerprint: str) -> pa.Table:
    """All directories as one table of one chunk a column."""
    rows: list[tuple[Any, ...]] = []
    problems: list[Problem] = []
    for source, table in enumerate(tables):
        folder = _Folder(table, reading)
        problems += folder.problems
        for name, entry in folder.places.items():
            try:
                rows.append((*folder.row(name, entry), source))
            except DataError as error:
                cause = str(error).removeprefix(f"{table}:{entry.line}: ")
                problems.append(Problem(os.fspath(table), entry.line, cause))
    names = ("@audio", "@target", "@line", "id", "speaker", "frames", "cmvn", "@duration", "@source")
    columns: dict[str, Sequence[Any]] = dict.fromkeys(names, ())
    columns |= zip(names, zip(*rows, strict=True), strict=True) if rows else ()
    columns["@offset"] = (0.0,) * len(rows)
    width = _width(columns["@audio"][0]) if rows else None
    notes = {
        "width": width,
        "sets": [*range(len(tables))],
        "problems": problems,
        "fingerprint": fingerprint,
        "sources": [os.fspath(table) for table in tables],
    }
    made = pa.table({name: pa.array(columns[name], kind) for name, kind in SHAPE.items()})
    return made.replace_schema_metadata({"anemone": json.dumps(notes)})


def _width(place: str) -> int | None:
    try:
        return Arks().rows(parse_place(place, place))[1]
    except DataError:
        return None


class _Folder:
    """The tables of one directory."""

    def __init__(self, table: Path, reading: Reading) -> None:
        self.path, self.reading, self.arks = table, reading, Arks()
        self.problems: list[Problem] = []
        self.places = self._read(table.name)
        self.tables = {name: self._read(name) if (table.parent / name).is_file() else {} for name in TABLES}
        self.targets = self.tables["utt2label"] if reading.target == "label" else {}
        self.targets = self.targets or self.tables["text"]
        self.speakers = speakers(self.tables["utt2spk"], self.tables["spk2utt"])
        self.roots = [Path.cwd(), *list(table.absolute().parents)[1:4], table.absolute().parent]

    def _read(self, name: str) -> dict[str, Entry]:
        entries, problems = read_table(self.path.parent / name)
        self.problems += problems
        return entries

    def row(self, name: str, entry: Entry) -> tuple[Any, ...]:
        """Place, target, line, name, speaker, frames, statistics and seconds of an utterance."""
        target = self.targets.get(name)
        if target is None:
            wanted = "utt2label or text" if self.reading.target == "label" else "text"
            raise DataError(f"`{name}` is not in {wanted}")
        where = f"{self.path}:{entry.line}"
        text, place = self._place(entry.value, where)
        counted = self.tables["utt2num_frames"].get(name)
        frames = int(counted.value) if counted and counted.value.isdecimal() else self.arks.rows(place)[0]
        if frames < 1:
            raise DataError(f"{where}: `{name}` has no frames")
        speaker = self.speakers.get(name)
        stats = self.tables["cmvn.scp"].get(speaker or name) or self.tables["cmvn.scp"].get(name)
        cmvn = self._place(stats.value, f"{self.path.parent / 'cmvn.scp'}:{stats.line}")[0] if stats else None
        return text, target.value, entry.line, name, speaker, frames, cmvn, self._seconds(name, frames)

    def _seconds(self, name: str, frames: int) -> float:
        """What ``utt2dur`` says; else the time of the frames."""
        entry = self.tables["utt2dur"].get(name)
        return number(entry.value, above=0) if entry else frames * self.reading.hop_ms / 1000

    def _place(self, text: str, where: str) -> tuple[str, Place]:
        """A place with the path where it is, as text and in parts; the output of a command is kept in the cache."""
        if is_command(text):
            text = kept(output_of(text, where, trust_commands=self.reading.trust_commands), text, ".ark")
        place = parse_place(text, where)
        found = place._replace(path=find(place.path, self.roots))
        return text.replace(place.path, found.path, 1), found
