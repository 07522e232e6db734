"""Writes that happen wholly or not at all: to a neighbour ``NAME.tmp``, flushed to disk, then renamed.

A process killed at any moment, or a machine that loses power, leaves either what stood before or what was to stand
after. A folder cannot be renamed over another, so the one before is moved aside to ``NAME.old`` for the moment between
two renames; `standing` finds it there, and the next write puts it back. Imports no torch.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anemone.errors import ArchiveError

NAMELESS = "", ".."  # what "." and "/" end in, and what goes up: none has a neighbour that could take its place


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Gives a path to write to; on leaving, what was written there becomes the file ``path``.

    If the block raises, ``path`` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _beside(path, ".tmp")
    _remove(draft)
    try:
        yield draft
        fsync(draft)
        os.replace(draft, path)
    finally:
        _remove(draft)
    fsync(path.parent)


def atomic_write(path: str | Path, data: bytes) -> None:
    """Writes the bytes of a whole file."""
    with atomic_file(path) as draft:
        draft.write_bytes(data)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Gives an empty folder to fill; on leaving, it becomes ``path`` **in the place of what was there**.

    If the block raises, ``path`` is as it was.

    Example:
        >>> import tempfile
        >>> step = Path(tempfile.mkdtemp()) / "step_7"
        >>> with atomic_folder(step) as folder:
        ...     _ = (folder / "state.json").write_text("{}")
        ...     step.exists()
        False
        >>> [file.name for file in step.iterdir()]
        ['state.json']
    """
    path = Path(path)
    draft, old = _beside(path, ".tmp"), _beside(path, ".old")
    if old.exists() and not path.exists():  # killed between the two renames
        os.replace(old, path)
    _remove(draft)
    draft.mkdir(parents=True)
    try:
        yield draft
        _fsync_tree(draft)
        _remove(old)
        if path.exists():
            os.replace(path, old)
        os.replace(draft, path)
    finally:
        _remove(draft)
    fsync(path.parent)
    _remove(old)


def standing(path: str | Path) -> Path:
    """Where the content of ``path`` is to be read: there, or at ``NAME.old`` after a kill between two renames."""
    path = Path(path)
    if path.name in NAMELESS:
        return path
    old = _beside(path, ".old")
    return old if old.exists() and not path.exists() else path


def fsync(path: str | Path) -> None:
    """Flushes a file, or the names in a folder, to disk."""
    if os.name == "nt" and Path(path).is_dir():  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fsync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        fsync(path)
    fsync(folder)


def _beside(path: Path, suffix: str) -> Path:
    if path.name in NAMELESS:
        raise ArchiveError(f"`{path}` must end in the name of a file or folder to be written, which it does not.")
    return path.with_name(path.name + suffix)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
