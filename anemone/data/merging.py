"""Several data sets as one manifest: an utterance that stands in several comes once, and no two have one id."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anemone.data.ids import different
from anemone.data.locators import relative
from anemone.data.manifest import Index
from anemone.data.named_rows import FOUND_BY, read_source
from anemone.data.problems import Problem
from anemone.errors import DataError

CHUNK = 10_000  # rows at a time


class Merged(NamedTuple):
    """What was merged.

    Attributes:
        rows: utterances that were read, by source.
        lines: utterances that were written.
        twice: ids of those left out: the same piece of the same recording, with the same text or label.
        renamed: ids that stood for different utterances, before and after.
        problems: lines that could not be used.
    """

    rows: dict[str, int]
    lines: int
    twice: list[str]
    renamed: list[tuple[str, str]]
    problems: list[Problem]


def merge(sources: Sequence[str | Path], out: str | Path) -> Merged:
    """Writes one manifest of several sources; the recordings stay where they are.

    Args:
        sources: manifests, or what else is a source, each by itself.
        out: the new manifest.

    Raises:
        DataError: a source holds nothing to use, or the new manifest is one of them.
    """
    goal = Path(out).expanduser()
    same = [source for source in sources if goal.exists() and Path(source).exists() and goal.samefile(source)]
    if same:
        raise DataError(f"`{out}` must be another file than what is merged. Give another name.")
    read = {os.fspath(source): read_source([source]) for source in sources}
    seen: set[tuple[Any, ...]] = set()
    ids, kept, twice = list[str](), list[bool](), list[str]()
    for index, _ in read.values():
        for row in _rows(index):
            key = (row["audio"], row["offset"], row["duration"], row["target"])
            kept.append(key not in seen)
            (ids if kept[-1] else twice).append(row["id"])
            seen.add(key)
    names, changed = different(ids)
    _write(goal, read.values(), kept, names)
    return Merged(
        rows={source: len(index) for source, (index, _) in read.items()},
        lines=len(names),
        twice=twice,
        renamed=[(ids[i], names[i]) for i in changed],
        problems=[problem for index, _ in read.values() for problem in index.problems],
    )


def _rows(index: Index) -> Iterator[dict[str, Any]]:
    """Each row, with its further keys under ``further``."""
    further = [name for name in index.columns if name not in FOUND_BY]
    for start in range(0, len(index), CHUNK):
        numbers = range(start, min(start + CHUNK, len(index)))
        columns = index.table.select(further).slice(start, len(numbers)).to_pylist() if further else [{}] * len(numbers)
        for row, values in zip(index.rows(numbers), columns, strict=True):
            yield {**row._asdict(), "further": {key: value for key, value in values.items() if value is not None}}


def _write(goal: Path, read: Any, kept: Sequence[bool], names: Sequence[str]) -> None:
    """Writes the manifest beside its place, and moves it there."""
    goal.parent.mkdir(parents=True, exist_ok=True)
    path = goal.with_name(f".{goal.name}.{os.getpid()}.tmp")
    keep, name = iter(kept), iter(names)
    try:
        with path.open("w", encoding="utf-8") as file:
            for index, target in read:
                for row in _rows(index):
                    if next(keep):
                        line = {"id": next(name), "audio_filepath": relative(goal.parent, row["audio"])}
                        line |= {"offset": row["offset"]} if row["offset"] else {}
                        line |= {"duration": row["duration"], target: row["target"], **row["further"]}
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        os.replace(path, goal)
    finally:
        path.unlink(missing_ok=True)
