"""Lhotse Shar: shards of cuts (``cuts.000000.jsonl.gz``) and tars of their audio (``recording.000000.tar``)."""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import soundfile

from anemone.data.locators import Locator
from anemone.data.problems import Problem
from anemone.data.sources import Utterance
from anemone.data.sources.jsonl import made, rows, writing
from anemone.data.sources.lhotse import cut_of, utterance_of
from anemone.data.sources.pieces import Header, piece, seconds
from anemone.data.tars import members
from anemone.errors import DataError

CUTS = re.compile(r"cuts(?:\.(\w+))?\.jsonl(?:\.gz)?")
PER_SHARD = 1000  # cuts of a shard
NO_DATA = ".nodata"

Places = Mapping[str, tuple[str, int, int, str | None]]
"""Ids of cuts -> their member's name, first byte, bytes, and why it cannot be read."""


def shards(folder: str | Path) -> list[tuple[Path, Path]]:
    """Returns the pairs of cuts and tar of a folder, in the order of their names.

    Raises:
        DataError: there are none, or a tar is missing.
    """
    home = Path(folder)
    found = sorted((path, match[1]) for path in home.iterdir() if (match := CUTS.fullmatch(path.name)))
    if not found:
        raise DataError(f"`{folder}` must have cuts such as `cuts.000000.jsonl.gz`, but has none.")
    pairs = [(cuts, home / (f"recording.{number}.tar" if number else "recording.tar")) for cuts, number in found]
    for cuts, tar in pairs:
        if not tar.is_file():
            raise DataError(f"`{cuts}` must have its audio in `{tar.name}` beside it, but there is no such file.")
    return pairs


def read_shar(folder: str | Path) -> Iterator[Utterance | Problem]:
    """Yields the cuts of a folder, each with the place of its audio in a tar."""
    for cuts, tar in shards(folder):
        try:
            places: Places | DataError = _places(tar)
        except DataError as error:
            places = error
        for number, row in rows(os.fspath(cuts)):
            if isinstance(row, Problem):
                yield row
                continue
            yield made(partial(_cut, row, os.fspath(folder), os.fspath(tar), places), os.fspath(cuts), number)


def _places(tar: Path) -> Places:
    """What a tar has of the cuts."""
    columns = (members(tar)[name].to_pylist() for name in ("name", "at", "size", "odd"))
    found = [place for place in zip(*columns, strict=True) if not place[0].endswith((".json", ".nometa"))]
    return {place[0].rpartition(".")[0]: place for place in found}


def _cut(row: Mapping[str, Any], folder: str, tar: str, places: Places | DataError) -> Utterance:
    """The utterance of a cut.

    Raises:
        ValueError: its audio is not in the tar, or the cut is wrong.
        DataError: the tar is none.
    """
    if isinstance(places, DataError):
        raise places
    name, at, size, odd = places.get(str(row.get("id")), ("", 0, 0, "is not there"))
    if odd or name.endswith(NO_DATA):
        raise ValueError(f"`{row.get('id')}` in `{tar}` {odd or 'has no audio'}")
    return utterance_of(row, folder, str(Locator(tar, at, size)))


def write_shar(utterances: Iterable[Utterance], folder: str | Path, *, per_shard: int = PER_SHARD) -> list[Problem]:
    """Writes Shar; each utterance's audio is cut out of its recording, so offsets become 0."""
    home, problems = Path(folder), list[Problem]()
    home.mkdir(parents=True, exist_ok=True)
    lines, tar, number = list[str](), None, 0
    for row, each in enumerate(utterances, start=1):
        tar = tar or (home / f".recording.{number:06d}.tar.tmp").open("wb")
        try:
            lines.append(_put(tar, each))
        except DataError as error:
            problems.append(Problem(os.fspath(folder), row, f"`{each.id}`: {error}"))
        if len(lines) == per_shard:
            _finish(tar, lines, home, number)
            lines, tar, number = [], None, number + 1
    if tar is not None:
        _finish(tar, lines, home, number)
    return problems


def _put(tar: io.BufferedWriter, each: Utterance) -> str:
    """Adds an utterance to a tar and returns the line of its cut."""
    if each.id.startswith("/") or ".." in each.id.split("/") or "\0" in each.id or not each.id:
        raise DataError("`id` must be a name that stays in its tar, without `..` and not absolute.")
    length = seconds(each)
    data, ending = piece(each._replace(duration=length))
    try:
        info = soundfile.info(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        raise DataError(f"`{each.audio}` cannot be decoded: {error.error_string}") from error
    about = Header(info.samplerate, info.frames, info.channels, info.subtype, ending)
    alone = each._replace(offset=0.0, duration=min(length, about.seconds), channel=None)
    row = cut_of(alone, about, {"type": "shar", "source": ""}, name=each.id)
    meta = json.dumps(row["recording"], ensure_ascii=False).encode() + b"\n"
    for name, content in ((each.id + ending, data), (each.id + ".json", meta)):
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o644
        tar.write(entry.tobuf(tarfile.GNU_FORMAT))
        tar.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
    return json.dumps(row, ensure_ascii=False) + "\n"


def _finish(tar: io.BufferedWriter, lines: list[str], home: Path, number: int) -> None:
    """Moves a shard into its place."""
    with tar:
        tar.write(bytes(2 * tarfile.BLOCKSIZE))
    os.replace(tar.name, home / f"recording.{number:06d}.tar")
    with writing(home / f"cuts.{number:06d}.jsonl.gz") as cuts:
        cuts.writelines(lines)
