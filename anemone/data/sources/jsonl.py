"""Manifests of JSON lines, NeMo's: plain or ``.gz``."""

import gzip
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from anemone.data.jsonlines import SKIP, parsed
from anemone.data.locators import name_of, relative
from anemone.data.problems import Problem
from anemone.data.sources import Utterance
from anemone.data.sources.lines import folder_of, lines
from anemone.data.sources.names import expand
from anemone.data.sources.pieces import seconds
from anemone.data.sources.rows import row_of, utterance
from anemone.errors import DataError

NAMES = {"id": "id", "audio": "audio_filepath", "offset": "offset", "duration": "duration", "text": "text"}
NAMES |= {"label": "label", "speaker": "speaker", "channel": "channel"}
"""Fields of an utterance -> keys, in the order they are written in."""


def read_jsonl(path: str | Path) -> Iterator[Utterance | Problem]:
    """Yields the utterances of a manifest, or of all that a pattern such as ``train_{0..7}.jsonl`` names."""
    for name in expand(os.fspath(path)):
        folder = folder_of(name)
        for number, row in rows(name):
            if isinstance(row, Problem):
                yield row
            elif row.get(SKIP) not in (True, "true"):
                yield made(partial(utterance, row, folder, without=(SKIP,)), name, number)


def rows(path: str) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """Yields the objects of a file of JSON lines with the numbers of their lines."""
    for number, line in lines(path):
        try:
            yield number, parsed(line)
        except ValueError as error:
            yield number, Problem(path, number, str(error))


def made(make: Callable[[], Utterance], path: str, number: int) -> Utterance | Problem:
    """Returns what a function makes, or why it cannot, with file and line."""
    try:
        return make()
    except ValueError as error:  # also a DataError
        return Problem(path, number, str(error))


def write_jsonl(utterances: Iterable[Utterance], path: str | Path) -> list[Problem]:
    """Writes a manifest; recordings stay where they are, and an id is written where it cannot be told from them."""
    target, problems = Path(path), list[Problem]()
    with writing(target) as file:
        for number, each in enumerate(utterances, start=1):
            try:
                each = each._replace(duration=seconds(each))
            except DataError as error:
                problems.append(Problem(os.fspath(path), number, f"`{each.id}`: {error}"))
                continue
            row = row_of(each, relative(target.parent, each.audio), NAMES)
            if each.id == name_of(each.audio, each.offset):
                del row["id"]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return problems


@contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    """Gives a text file, plain or ``.gz``, that is moved into its place when it is done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with ExitStack() as stack:
            raw: Any = stack.enter_context(draft.open("wb"))
            if path.suffix == ".gz":
                raw = stack.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0))
            yield stack.enter_context(io.TextIOWrapper(raw, "utf-8", newline=""))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
