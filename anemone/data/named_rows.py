"""Rows of a source for work that makes new recordings: whatever it says of an utterance, under names no other has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from anemone.data.ids import different, file_stem
from anemone.data.manifest import Index
from anemone.data.problems import log
from anemone.errors import DataError

FOUND_BY = {"id", "audio_filepath", "audio_filename", "offset", "duration"}  # keys that a new manifest has of its own


def read_source(source: Sequence[str | Path]) -> tuple[Index, Literal["text", "label"]]:
    """Returns the index of a source, and the key of what is learned from it: "text", or "label" where none has one."""
    target: Literal["text", "label"] = "text"
    if not _holds(source, "text") and _holds(source, "label"):
        target = "label"
    return Index.read(source, target=target), target


def _holds(source: Sequence[str | Path], target: Literal["text", "label"]) -> bool:
    """Whether a source has something to learn from under a key; says nothing."""
    log.disabled = True
    try:
        return len(Index.read(source, target=target)) > 0
    except DataError:
        return False
    finally:
        log.disabled = False


class NamedRows:
    """Rows of an index, from one number to another, with names that no other has.

    Args:
        index: of the source; it is warned of ids that stand more than once.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        ids = index.ids(range(len(index)))
        self.names, changed = different(ids)
        self.stems, _ = different(map(file_stem, self.names))
        if changed:
            first = ids[changed[0]]
            log.warning("%d ids stand more than once, as `%s`: -2, -3, ... follow the later ones", len(changed), first)

    def __call__(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Returns rows plain enough for JSON."""
        numbers = range(start, stop)
        further = [name for name in self.index.columns if name not in FOUND_BY]
        columns = self.index.table.select(further).slice(start, stop - start).to_pylist()
        return [
            {
                **row._asdict(),
                "number": number,
                "name": self.names[number],
                "stem": self.stems[number],
                "further": {key: value for key, value in values.items() if value is not None},
            }
            for number, row, values in zip(
                numbers, self.index.rows(numbers), columns or [{}] * len(numbers), strict=True
            )
        ]
