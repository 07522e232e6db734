"""From one format of data sets to another."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from anemone.data.files import placed
from anemone.data.problems import Problem
from anemone.data.sources import Utterance, source
from anemone.data.sources.detect import detect, detect_target
from anemone.errors import DataError

UNIQUE = {"kaldi", "lhotse", "shar", "audiofolder", "parquet", "librispeech"}
"""Formats in which no two utterances have the same id."""


class Converted(NamedTuple):
    """What became of a data set.

    Attributes:
        rows: utterances written.
        problems: those left out, in the source and in the target.
    """

    rows: int
    problems: list[Problem]


def read(path: str | Path, form: str | None = None, *, trust_commands: bool = False) -> Iterator[Utterance | Problem]:
    """Yields the utterances of a data set of any format, and problems in the place of those that cannot be used.

    Args:
        path: file, folder or pattern; ``assets/...`` is looked up inside the package.
        form: its format; told from what is there by default.
        trust_commands: whether to run the commands in a Kaldi folder.

    Raises:
        DataError: its format is unknown, or it cannot be read.
    """
    path = placed(path)
    kind = form or detect(path)
    if kind == "kaldi" and trust_commands:
        from anemone.data.kaldi import read_kaldi

        return read_kaldi(path, trust_commands=True)
    return source(kind).read(os.fspath(path))


def convert(
    sources: Sequence[str | Path],
    target: str | Path,
    *,
    of: str | None = None,
    to: str | None = None,
    trust_commands: bool = False,
) -> Converted:
    """Writes some data sets as one in another format.

    Args:
        sources: what to read.
        target: file or folder to write.
        of: format of the sources; told from what is there by default.
        to: format of the target; told from its name by default.
        trust_commands: whether to run the commands in a Kaldi folder.

    Raises:
        DataError: a format cannot be told, a source cannot be read, or the target is one of them.
    """
    kind = to or detect_target(target)
    writer = source(kind).write
    sources, target = [placed(path) for path in sources], Path(placed(target))
    for path in sources:
        if os.path.exists(target) and os.path.exists(path) and os.path.samefile(path, target):
            raise DataError(f"`{target}` must not be what is read.")
    problems = list[Problem]()
    found = (item for path in sources for item in read(path, of, trust_commands=trust_commands))
    utterances = _good(found, problems)
    count = _Counted(_distinct(utterances) if kind in UNIQUE else utterances)
    lost = writer(count, target) or []
    return Converted(count.number - len(lost), problems + lost)


class _Counted:
    """Counts what goes by."""

    def __init__(self, found: Iterable[Utterance]) -> None:
        self._found, self.number = found, 0

    def __iter__(self) -> Iterator[Utterance]:
        for each in self._found:
            self.number += 1
            yield each


def _good(found: Iterable[Utterance | Problem], problems: list[Problem]) -> Iterator[Utterance]:
    """The utterances among some; notes the problems."""
    for item in found:
        if isinstance(item, Problem):
            problems.append(item)
        else:
            yield item


def _distinct(found: Iterable[Utterance]) -> Iterator[Utterance]:
    """The same with different ids: the second ``a`` becomes ``a-2``."""
    counts: dict[str, int] = {}
    for each in found:
        name, number = each.id, counts.get(each.id, 0)
        while name in counts:
            number += 1
            name = f"{each.id}-{number}"
        counts[each.id] = max(number, 1)
        counts.setdefault(name, 1)
        yield each if name == each.id else each._replace(id=name)
