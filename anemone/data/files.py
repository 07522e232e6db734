"""Files that settings name: where they lie, and what they hold in a few characters."""

import hashlib
import os
from pathlib import Path

from anemone.config import nearest, stem
from anemone.errors import DataError

ASSETS = Path(__file__).parents[1] / "assets"


def placed(path: str | Path) -> str:
    """Returns where a path points: ``assets/...`` inside the package, ``~/...`` at home, others as they are."""
    text = os.path.expanduser(path)
    return os.fspath(ASSETS / text.removeprefix("assets/")) if text.startswith("assets/") else os.fspath(text)


def find(path: str | Path, *, noun: str, pattern: str) -> Path:
    """Returns where a file lies, see `placed`.

    Args:
        path: as it was written.
        noun: what it is called.
        pattern: of the names that may have been meant.

    Raises:
        DataError: there is no such file.
    """
    found = Path(placed(path))
    if not found.is_file():
        siblings = [os.fspath(other) for other in found.parent.glob(pattern)]
        raise DataError(f"`{path}` must be a {noun} that exists.{nearest(os.fspath(found), siblings, by=stem)}")
    return found


def digest(path: Path) -> str:
    """Returns the SHA-256 of what a file holds."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
