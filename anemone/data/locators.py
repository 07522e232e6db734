"""Where a recording is: a file, a piece of one, or a URL.

    talks/monday.flac                     a path
    shard_0.tar?member=monday.flac        a member of a tar, as people write it
    shard_0.tar?at=1536&size=80044        the same by its place, as indexes write it: read at once, wherever it stands
    clips.parquet?row=7                   the audio of a row
    s3://bucket/talks/monday.flac         a URL of any file system that fsspec knows (extra ``[remote]``)

Tars are read where they lie and never unpacked, so a member's name cannot put a file anywhere; links are not followed.
What comes from a URL is kept in the cache, by its URL, and not asked for again.
"""

import io
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from anemone.errors import DataError

ARGUMENTS = re.compile(
    r"\?(?:at=(?P<at>\d{1,18})&size=(?P<size>\d{1,18})|row=(?P<row>\d{1,18})|member=(?P<member>.+))\Z", re.S
)
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
BUFFER = 1 << 16  # bytes read ahead in a piece of a file


class Locator(NamedTuple):
    """A locator in parts.

    Attributes:
        path: of the file, or its URL.
        at: first byte of the recording.
        size: its bytes.
        row: number of a row of a parquet file.
        member: name in a tar.
    """

    path: str
    at: int | None = None
    size: int | None = None
    row: int | None = None
    member: str | None = None

    def __str__(self) -> str:
        """As it is written."""
        if self.at is not None:
            return f"{self.path}?at={self.at}&size={self.size}"
        if self.row is not None:
            return f"{self.path}?row={self.row}"
        return self.path if self.member is None else f"{self.path}?member={self.member}"


def locate(text: str) -> Locator:
    """Returns a locator in parts.

    Example:
        >>> locate("a.tar?at=512&size=80").at, locate("a.tar?member=b?.wav").member, locate("what?.wav").path
        (512, 'b?.wav', 'what?.wav')
    """
    found = ARGUMENTS.search(text)
    if found is None:
        return Locator(text)
    numbers = {
        name: value if name == "member" or value is None else int(value) for name, value in found.groupdict().items()
    }
    return Locator(text[: found.start()], **numbers)  # type: ignore[arg-type]


def is_url(text: str) -> bool:
    """Whether a locator begins like a URL."""
    return URL.match(text) is not None


def is_file(text: str) -> bool:
    """Whether a locator is no more than the path of a file on this machine."""
    return not is_url(text) and locate(text).path == text


def below(folder: str | Path, text: str) -> str:
    """Returns a locator whose path is taken from a folder, unless it is absolute or a URL; ``~/...`` is at home."""
    if is_url(text):
        return text
    return os.path.join(os.fspath(folder), os.path.expanduser(text))


def relative(folder: str | Path, text: str) -> str:
    """Returns a locator as a file in a folder may write it: relative where it lies below, else absolute."""
    if is_url(text):
        return text
    absolute, home = os.path.abspath(text), os.path.abspath(folder)
    return os.path.relpath(absolute, home) if absolute.startswith(home.rstrip("/") + "/") else absolute


def open_audio(text: str | Path) -> str | BinaryIO:
    """Returns what soundfile opens: the path of a file, or a file object that closes with its last reference.

    Raises:
        DataError: a URL that cannot be had, or no such member or row.
        OSError: the file of a piece cannot be opened.
    """
    place = locate(os.fspath(text))
    if is_url(place.path):
        return _remote(place)
    if place.row is not None:
        from anemone.data.row_groups import audio_of

        place = audio_of(place.path, place.row)
    elif place.member is not None:
        from anemone.data.tars import member

        place = member(place.path, place.member)
    if place.at is None or place.size is None:
        return place.path
    return io.BufferedReader(Slice(place.path, place.at, place.size), BUFFER)


def read_audio(text: str | Path) -> bytes:
    """Returns all bytes of a recording, undecoded.

    Raises:
        DataError: it is not there.
    """
    try:
        found = open_audio(text)
        if isinstance(found, str):
            return Path(found).read_bytes()
        with found as file:
            return file.read()
    except OSError as error:
        raise DataError(f"`{text}` cannot be read: {error.strerror or error}.") from error


def name_of(audio: str, offset: float) -> str:
    """The name of an utterance without one: its recording's stem, and milliseconds where it does not begin at 0.

    Example:
        >>> name_of("talks/monday.flac", 0.0), name_of("talks/monday.flac", 12.5)
        ('monday', 'monday@12500')
    """
    return os.path.splitext(os.path.basename(audio))[0] + (f"@{round(1000 * offset)}" if offset else "")


def suffix(text: str) -> str:
    """Returns the ending of a recording's name, with its dot, in small letters; empty where its place has no name."""
    place = locate(text)
    return Path(place.member or ("" if place.at is not None or place.row is not None else place.path)).suffix.lower()


class Slice(io.RawIOBase):
    """A piece of a file as a file of its own; never reads beyond it.

    Args:
        path: of the file.
        at: first byte.
        size: bytes; the piece ends earlier where the file does.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | Path, at: int, size: int) -> None:
        self._file = -1
        self.name = os.fspath(path)
        self._file = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
        self._at, self._size, self._position = at, max(0, min(size, os.fstat(self._file).st_size - at)), 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes from the beginning of the piece."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Goes to a byte of the piece."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fills a buffer, as far as there is something left."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._position))
        count = os.preadv(self._file, [view[:count]], self._at + self._position) if count else 0
        self._position += count
        return count

    def close(self) -> None:
        """Lets go of the file."""
        if not self.closed and self._file >= 0:
            os.close(self._file)
        super().close()


def _remote(place: Locator) -> str | BinaryIO:
    """What lies at a URL: a copy in the cache of the file, or of a piece of it."""
    from anemone.data.remote import fetch

    if place.row is not None:
        return open_audio(str(place._replace(path=fetch(place.path))))
    if place.member is not None:
        from anemone.data.tars import member

        place = member(place.path, place.member)
    return fetch(place.path, place.at, place.size)
