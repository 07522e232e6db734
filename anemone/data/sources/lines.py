"""Lines of text files, plain or ``.gz``, here or at a URL."""

import gzip
import os
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

from anemone.data import remote
from anemone.data.locators import is_url
from anemone.errors import DataError

LONGEST = 1 << 24  # bytes of a line
BOMB = 200, 1 << 28  # a file may grow so many times where it unpacks to more than so many bytes
PIECE = 1 << 22  # bytes at a time


def local(path: str) -> str:
    """Returns the path of a file, or of a copy in the cache of what is at a URL now."""
    return remote.fetch(path, state=remote.state(path)) if is_url(path) else path


def pieces(path: str) -> Generator[bytes, None, None]:
    """Yields what a file holds, unpacked, piece by piece.

    Raises:
        DataError: it cannot be read or unpacked, or unpacks to far more than text does.
    """
    here = local(path)
    try:
        packed = path.endswith(".gz")
        size, total = os.path.getsize(here), 0
        with gzip.open(here) if packed else open(here, "rb") as file:
            while piece := file.read(PIECE):
                total += len(piece)
                if packed and total > max(BOMB[0] * size, BOMB[1]):
                    raise DataError(f"`{path}` must be text, but unpacks to more than {BOMB[0]} times its size.")
                yield piece
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"`{path}` cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields the lines that are not blank, each with its number from 1.

    Raises:
        DataError: the file cannot be read, or a line is longer than 16 MiB.
    """
    number, rest = 0, b""
    with closing(pieces(path)) as found:
        for i, piece in enumerate(found):
            *whole, rest = (rest + (piece if i else piece.removeprefix(b"\xef\xbb\xbf"))).split(b"\n")
            for line in whole:
                number += 1
                if line.strip():
                    yield number, line
            if len(rest) > LONGEST:
                raise DataError(f"{path}:{number + 1}: a line must have at most {LONGEST} bytes.")
    if rest.strip():
        yield number + 1, rest


def folder_of(path: str) -> str:
    """Returns the folder, or the URL of the folder, of a file."""
    return os.path.dirname(path) if is_url(path) else os.path.dirname(os.path.abspath(path))


def name_of(path: str) -> str:
    """Returns a file's name without its endings."""
    return Path(path).name.partition(".")[0]
