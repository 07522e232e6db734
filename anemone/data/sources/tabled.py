"""Utterances of any format to the columns of an index."""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from anemone.data.jsonlines import OWN, column_of
from anemone.data.locators import is_url
from anemone.data.problems import Problem
from anemone.data.sources import Utterance
from anemone.data.sources.lines import folder_of
from anemone.data.sources.names import expand
from anemone.data.sources.pieces import seconds
from anemone.data.sources.tarred import SHARDED, TARS
from anemone.errors import DataError

CHUNK = 32_768  # utterances at a time
TYPES = (pa.string(), pa.float64(), pa.float64(), pa.string(), pa.int32())  # of OWN


class Columns(NamedTuple):
    """Columns of an index, and what was left out.

    Attributes:
        parts: tables, in order.
        problems: what was left out.
    """

    parts: list[pa.Table]
    problems: list[Problem]


def tabled(found: Iterable[Utterance | Problem], path: str, target: str) -> Columns:
    """Returns utterances as columns: those of an index, then ``id``, ``speaker``, ``channel``, and all extras.

    Args:
        found: utterances, and problems in the place of those that cannot be used.
        path: where they come from.
        target: "text" or "label".
    """
    columns = Columns([], [])
    numbered = enumerate(found, start=1)
    while some := list(islice(numbered, CHUNK)):
        rows = [row for number, each in some if (row := _row(number, each, path, target, columns.problems)) is not None]
        own = {name: pa.array([row[name] for row in rows], kind) for name, kind in zip(OWN, TYPES, strict=True)}
        names = dict.fromkeys(name for row in rows for name in row if name not in OWN)
        further = {name: column_of([row.get(name) for row in rows]) for name in names}
        columns.parts.append(pa.table({**own, **further}))
    return columns


def _row(
    number: int, each: Utterance | Problem, path: str, target: str, problems: list[Problem]
) -> dict[str, Any] | None:
    """An utterance by the names of columns; None, and a problem more, if it cannot be used."""
    if isinstance(each, Problem):
        problems.append(each)
        return None
    aim = each.text if target == "text" else each.label
    try:
        if aim is None:
            raise DataError(f"lacks `{target}`")
        length = seconds(each)
        if not (0 < length < math.inf and 0 <= each.offset < math.inf):
            raise DataError(f"must last above 0 seconds, but lasts {length:g} from second {each.offset:g} on instead")
    except DataError as error:
        problems.append(Problem(path, number, f"`{each.id}`: {error}"))
        return None
    other = {"label": each.label} if target == "text" else {"text": each.text}
    further = {"id": each.id, "speaker": each.speaker, "channel": each.channel, **other}
    row = {key: value for key, value in each.extra.items() if not key.startswith("@")}
    row |= {key: value for key, value in further.items() if value is not None}
    return row | dict(zip(OWN, (each.audio, each.offset, length, aim, number), strict=True))


def state(path: str) -> str:
    """Returns what changes when a data set does: paths, sizes and times of its files; a recording elsewhere is not one.

    Raises:
        DataError: it cannot be read.
    """
    name, _, tars = path.partition(TARS)
    files = [file for each in (expand(name) if not os.path.isdir(name) else [name]) for file in _files(each)]
    files += expand(os.path.join(folder_of(name), tars)) if tars else []
    lines = [f"{file}|{_stat(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _files(path: str) -> Iterator[str]:
    """The files of a folder; a file and the tars beside it."""
    if os.path.isdir(path):
        for home, folders, names in os.walk(path):
            folders.sort()
            yield from (os.path.join(home, name) for name in sorted(names))
        return
    yield path
    if not is_url(path):
        folder = Path(folder_of(path))
        yield from sorted(map(os.fspath, (folder.parent if folder.name == SHARDED else folder).glob("*.tar")))


def _stat(path: str) -> str:
    if is_url(path):
        from anemone.data import remote

        return remote.state(path)
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"`{path}` cannot be opened: {error.strerror}.") from error
    return f"{found.st_size}|{found.st_mtime_ns}"
