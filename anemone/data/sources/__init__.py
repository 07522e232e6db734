"""Data sets of other tools, in and out: one row for all, and a function each way for each format.

A reader yields utterances in the order of the source, and a `Problem` in the place of each that cannot be used. A
writer takes utterances and returns a `Problem` for each that the format cannot hold.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from anemone.config import EMPTY, nearest
from anemone.data.problems import Problem
from anemone.errors import DataError


class Utterance(NamedTuple):
    """One utterance of a data set of whatever format.

    Attributes:
        id: its name.
        audio: the recording's locator; absolute where it is a path.
        offset: seconds into it.
        duration: seconds; None where the source does not say, up to the end.
        text: what is said.
        label: what it is.
        speaker: who speaks.
        channel: of the recording, from 0; None takes all.
        extra: what else the source says.
    """

    id: str
    audio: str
    offset: float = 0.0
    duration: float | None = None
    text: str | None = None
    label: str | None = None
    speaker: str | None = None
    channel: int | None = None
    extra: Mapping[str, Any] = EMPTY


Reader = Callable[[str], Iterator[Utterance | Problem]]
Writer = Callable[[Iterable[Utterance], Path], "list[Problem] | None"]


class Source(NamedTuple):
    """A format.

    Attributes:
        module: which has ``read_NAME`` and ``write_NAME``.
        name: of the functions.
        what: one line about it.
    """

    module: str
    name: str
    what: str

    @property
    def read(self) -> Reader:
        """The reader."""
        reader: Reader = getattr(import_module(f"anemone.data.{self.module}"), f"read_{self.name}")
        return reader

    @property
    def write(self) -> Writer:
        """The writer."""
        writer: Writer = getattr(import_module(f"anemone.data.{self.module}"), f"write_{self.name}")
        return writer


SOURCES = {
    "jsonl": Source("sources.jsonl", "jsonl", "a manifest of JSON lines, plain or .gz"),
    "tarred": Source("sources.tarred", "tarred", "NeMo's tarred sets: tars, and a manifest with shard_id"),
    "kaldi": Source("kaldi", "kaldi", "a folder with wav.scp, text, segments, ..."),
    "lhotse": Source("sources.lhotse", "lhotse", "Lhotse's cuts, .jsonl or .jsonl.gz"),
    "shar": Source("sources.shar", "shar", "a folder of Lhotse Shar: cuts, and tars of recordings"),
    "csv": Source("sources.tables", "csv", "a .csv or .tsv with a header, such as Common Voice's"),
    "audiofolder": Source("sources.tables", "audiofolder", "a folder of audio with metadata.csv or metadata.jsonl"),
    "parquet": Source("sources.parquet", "parquet", "parquet with audio in it, one file or a folder of them"),
    "librispeech": Source(
        "sources.librispeech", "librispeech", "folders of audio with .trans.txt, such as LibriSpeech"
    ),
}


def source(name: str) -> Source:
    """Returns a format by name.

    Raises:
        DataError: there is none of that name.
    """
    if name not in SOURCES:
        raise DataError(
            f"`{name}` must be a format of data sets.{nearest(name, SOURCES)} There are: {', '.join(SOURCES)}."
        )
    return SOURCES[name]
