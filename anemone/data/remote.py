"""Files at URLs, through fsspec (extra ``[remote]``): kept in the cache once they were read whole.

A read that fails is tried again a few times; what arrives in part is never kept.
``ANEMONE_OFFLINE=1`` reads what is kept and never asks for a network.
"""

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from anemone.cache import cache_folder
from anemone.errors import DataError

PIECE = 1 << 23  # bytes copied at a time
PAUSES = 0.2, 1.0, 3.0  # seconds to wait before the second try and later ones
FINAL = FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError  # errors that another try would meet
LOCAL = ("memory", "file", "local")  # protocols that need no network


def system(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL, and the path there.

    Raises:
        DataError: fsspec is not installed, does not know the protocol or cannot reach it, or ANEMONE_OFFLINE is set.
    """
    protocol = url.partition("://")[0]
    if "::" in url:
        raise DataError(f"`{url}` must be one URL, but chains several with `::`.")
    if protocol not in LOCAL and os.environ.get("ANEMONE_OFFLINE", "") not in {"", "0"}:
        raise DataError(f"`{url}` is not in the cache, and ANEMONE_OFFLINE is set.")
    try:
        import fsspec

        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DataError(
            f"`{url}` needs a package that is not installed: {error}. `pip install 'anemone[remote]'` has fsspec; "
            "protocols such as s3 and gs have packages of their own (s3fs, gcsfs)."
        ) from error
    except Exception as error:  # each protocol has errors of its own
        raise DataError(f"`{url}` cannot be reached: {error}") from error
    return found


def fetch(url: str, at: int | None = None, size: int | None = None, *, state: str = "") -> str:
    """Returns the path of a copy in the cache: of a file, or of ``size`` bytes of it from ``at`` on.

    Args:
        url: where it lies.
        at: first byte.
        size: number of bytes.
        state: what `state` gave where the copy must be of the file as it is now.

    Raises:
        DataError: it cannot be had.
    """
    name = hashlib.sha256(f"{url}\0{at}\0{size}\0{state}".encode()).hexdigest()[:32]
    path = cache_folder() / "remote" / name[:2] / f"{name}{Path(url).suffix if at is None else ''}"
    if path.exists():
        return os.fspath(path)
    files, there = system(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    for pause in (*PAUSES, None):
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp") as copy:
            try:
                _copy(files, there, copy, at, size)
            except Exception as error:  # each protocol has errors of its own
                if pause is None or isinstance(error, FINAL):
                    raise DataError(f"`{url}` cannot be fetched: {type(error).__name__}: {error}") from error
                time.sleep(pause)
                continue
            copy.flush()
            os.fsync(copy.fileno())
            if not path.exists():
                with contextlib.suppress(FileExistsError):
                    os.link(copy.name, path)
            break
    return os.fspath(path)


def _copy(files: Any, there: str, copy: IO[bytes], at: int | None, size: int | None) -> None:
    """Copies a file, or a piece of it; one that arrives shorter than it is said to be is an error."""
    if at is None or size is None:
        with files.open(there, "rb") as source:
            expected = getattr(source, "size", None)
            while piece := source.read(PIECE):
                copy.write(piece)
    else:
        expected, end = size, at + size
        for start in range(at, end, PIECE):
            piece = files.cat_file(there, start=start, end=min(start + PIECE, end))
            copy.write(piece)
            if len(piece) < min(PIECE, end - start):
                break
    if isinstance(expected, int) and copy.tell() != expected:
        raise EOFError(f"{copy.tell()} of {expected} bytes arrived")


def state(url: str) -> str:
    """Returns what changes when a file at a URL does: its entity tag, or its size and time.

    Raises:
        DataError: there is no such file, or it cannot be reached.
    """
    files, there = system(url)
    try:
        info = files.info(there)
    except Exception as error:  # each protocol has errors of its own
        raise DataError(f"`{url}` cannot be reached: {type(error).__name__}: {error}") from error
    keys = ("ETag", "etag", "size", "mtime", "LastModified", "last_modified", "created", "updated")
    return "|".join(f"{key}={info[key]}" for key in keys if info.get(key) is not None)
