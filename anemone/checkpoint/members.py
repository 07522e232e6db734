"""What lies in an archive, listed under limits and read in place: a folder, a tar, or a gzipped tar.

Nothing is ever unpacked to a path that an archive names. A member is a stretch of bytes of a file: it can be read,
opened, or mapped into memory. Links, devices, names that lead outside, members that stand twice, archives that are cut
short and gzips that swell are refused, each by name. Imports no torch.
"""

import gzip
import io
import mmap
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from anemone.checkpoint.atomic import standing
from anemone.errors import ArchiveError

MAX_MEMBERS = 10_000
MAX_NAME = 1_000  # characters
MAX_HEADER = 1 << 20  # bytes of a tar's extended header
MAX_READ = 256 << 20  # bytes of a member that is read as a whole
MAX_SWELL = 100  # times the size of a gzip ...
MIN_SWELL = 64 << 20  # ... or this many bytes, whichever is more

KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
FILES = {tarfile.REGTYPE, tarfile.AREGTYPE}
NAMES = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME}  # headers that name the member after them


class Member(NamedTuple):
    """A stretch of the bytes of a file."""

    source: Path | BinaryIO
    offset: int
    size: int


class Members:
    """The members of an open archive, by name.

    Args:
        path: the archive, for messages.
        table: name -> where the member's bytes are.
    """

    def __init__(self, path: Path, table: dict[str, Member]) -> None:
        self.path = path
        self.table = table

    @property
    def names(self) -> list[str]:
        """All names, in the archive's order; parts are joined by ``/``."""
        return list(self.table)

    def where(self, name: str) -> str:
        """The member as messages name it."""
        return f"{self.path}: {name}"

    def member(self, name: str) -> Member:
        """Returns a member.

        Raises:
            ArchiveError: there is none of that name.
        """
        if name not in self.table:
            listed = ", ".join(sorted(self.table)[:20]) or "nothing"
            raise ArchiveError(f"`{self.path}` lacks `{name}`. It holds: {listed}.")
        return self.table[name]

    def open(self, name: str) -> BinaryIO:
        """Returns a member as a seekable file that reads from the archive."""
        source, offset, size = self.member(name)
        return source.open("rb") if isinstance(source, Path) else io.BufferedReader(_Stretch(source, offset, size))

    def read(self, name: str, at_most: int = MAX_READ) -> bytes:
        """Returns all bytes of a member.

        Raises:
            ArchiveError: there is none of that name, or it is larger than ``at_most`` bytes.
        """
        size = self.member(name).size
        if size > at_most:
            raise ArchiveError(f"`{self.where(name)}` must have at most {at_most} bytes, but has {size} instead.")
        with self.open(name) as file:
            return file.read(size)

    def map(self, name: str) -> memoryview:
        """Returns a member's bytes, mapped into memory; what is written to them stays private to the process."""
        source, offset, size = self.member(name)
        if not size:
            return memoryview(b"")
        start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        handle = os.open(source, os.O_RDONLY) if isinstance(source, Path) else os.dup(source.fileno())
        try:
            pages = mmap.mmap(handle, offset - start + size, access=mmap.ACCESS_COPY, offset=start)
        finally:
            os.close(handle)
        return memoryview(pages)[offset - start :]


class _Stretch(io.RawIOBase):
    """Part of an open file, as a file."""

    def __init__(self, source: BinaryIO, start: int, size: int) -> None:
        self.source, self.start, self.size, self.at = source, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence] + offset)
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.source.seek(self.start + self.at)
        data = self.source.read(max(0, min(len(buffer), self.size - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


@contextmanager
def open_members(path: str | Path) -> Iterator[Members]:
    """Opens a folder, tar or gzipped tar, told apart by their first bytes, and lists its members.

    Raises:
        ArchiveError: it does not exist, is something else, is cut short, or is hostile in a way named above.
    """
    path = standing(path)
    if path.is_dir():
        yield Members(path, _folder(path))
    elif path.is_file():
        with path.open("rb") as file:
            start = file.read(4)
            if start == b"PK\x03\x04":
                raise ArchiveError(f"`{path}` must be a tar, but is a zip instead. Unpack it and give the folder.")
            if start[:2] != b"\x1f\x8b":
                yield Members(path, _tar(path, file))
                return
            with _gunzip(path, file) as plain:
                yield Members(path, _tar(path, plain))
    else:
        raise ArchiveError(f"`{path}` must be a file or folder that exists.")


def clean_name(name: str, path: Path) -> str:
    """Returns a member's name without a leading ``./``; empty for the folder itself.

    Raises:
        ArchiveError: the name leads outside the archive, or is no name on some system.
    """
    clean = name.rstrip("/") if name.strip("/") else name
    while clean.startswith("./"):
        clean = clean[2:].lstrip("/")
    clean = "" if clean == "." else clean
    parts = clean.split("/") if clean else []
    outside = any(part in {"", ".", ".."} for part in parts) or "\\" in clean or re.match("[A-Za-z]:", clean)
    if outside or len(clean) > MAX_NAME or not clean.isprintable():
        raise ArchiveError(f"`{path}` is refused: the name {name[:99]!r} of a member leads outside the archive.")
    return clean


def _add(table: dict[str, Member], name: str, member: Member, path: Path) -> None:
    if name in table:
        raise ArchiveError(f"`{path}` is refused: member `{name}` stands in it twice.")
    if len(table) >= MAX_MEMBERS:
        raise ArchiveError(f"`{path}` is refused: it has more than {MAX_MEMBERS} members.")
    table[name] = member


def _folder(path: Path) -> dict[str, Member]:
    """Lists the files below a folder; hidden ones are passed over."""
    for pickled in [*path.glob(".metadata"), *path.glob("*/.metadata")]:
        raise ArchiveError(
            f"`{path}` is refused: `{pickled.relative_to(path)}` is the pickle of a distributed checkpoint, and "
            "reading a pickle can run code. If you trust it, turn it into safetensors with other tools first."
        )
    table: dict[str, Member] = {}
    for top, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *sorted(name for name in files if not name.startswith("."))]:
            file = Path(top) / name
            if file.is_symlink() or not (file.is_file() or file.is_dir()):
                kind = "a symbolic link" if file.is_symlink() else "no regular file"
                raise ArchiveError(f"`{path}` is refused: member `{file.relative_to(path)}` is {kind}.")
            if file.is_file():
                clean = clean_name(file.relative_to(path).as_posix(), path)
                _add(table, clean, Member(file, 0, file.stat().st_size), path)
    return table


@contextmanager
def _gunzip(path: Path, file: BinaryIO) -> Iterator[BinaryIO]:
    """Decompresses into a nameless temporary file, no further than a real model would swell."""
    limit = max(MIN_SWELL, MAX_SWELL * path.stat().st_size)
    file.seek(0)
    with tempfile.TemporaryFile() as plain:
        try:
            with gzip.GzipFile(fileobj=file) as packed:
                while block := packed.read(1 << 20):
                    if plain.tell() + len(block) > limit:
                        raise ArchiveError(f"`{path}` is refused: it unpacks to more than {limit} bytes, like a bomb.")
                    plain.write(block)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ArchiveError(f"`{path}` is cut short or broken: {error}.") from error
        yield plain


def _tar(path: Path, file: BinaryIO) -> dict[str, Member]:
    """Lists the members of a tar by its headers alone."""
    table: dict[str, Member] = {}
    end, at = file.seek(0, os.SEEK_END), 0
    name, size = None, None  # from an extended header, for the member after it
    while True:
        header = _header(path, file, at)
        if header is None:
            return table
        held, at = header.size if size is None else size, at + tarfile.BLOCKSIZE
        what = f"`{path}` is refused: member `{(name or header.name)[:99]}`"
        if at + held > end:
            raise ArchiveError(f"{what.replace('refused', 'cut short')} ends at byte {at + held} of {end}.")
        if header.type in NAMES:
            if held > MAX_HEADER:
                raise ArchiveError(f"{what} has an extended header of {held} bytes.")
            file.seek(at)
            name, size = _extended(path, header.type, file.read(held), (name, size))
        elif header.type in FILES or header.type == tarfile.DIRTYPE:
            clean = clean_name(name or header.name, path)
            if header.type != tarfile.DIRTYPE:
                _add(table, clean, Member(file, at, held), path)
            name, size = None, None
        else:
            kind = KINDS.get(header.type, f"of the unknown type {header.type!r}")
            raise ArchiveError(f"{what} is {kind}.")
        at += -(-held // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _header(path: Path, file: BinaryIO, at: int) -> tarfile.TarInfo | None:
    """Reads the header at ``at``; None at the mark that ends a tar."""
    file.seek(at)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) == tarfile.BLOCKSIZE and not any(block) and at:
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        state = "is no tar" if at == 0 else "is cut short or broken"
        raise ArchiveError(f"`{path}` {state}: {error} at byte {at}.") from error
    if header.size < 0:
        raise ArchiveError(f"`{path}` is refused: member `{header.name[:99]}` has {header.size} bytes.")
    return header


Known = tuple[str | None, int | None]


def _extended(path: Path, kind: bytes, data: bytes, known: Known) -> Known:
    """Name and size that an extended header (pax records, or a GNU long name) gives to the member after it."""
    try:
        if kind == tarfile.GNUTYPE_LONGNAME:
            return data.rstrip(b"\0").decode(), known[1]
        records = _records(data)
        size = int(records["size"]) if "size" in records else known[1]
        sparse = any(key.startswith("GNU.sparse") for key in records)
        if sparse or (size is not None and size < 0):
            raise ValueError("a sparse file" if sparse else f"{size} bytes")
    except ValueError as error:
        raise ArchiveError(f"`{path}` is refused: an extended header cannot be used: {error}.") from error
    return records.get("path", known[0]), size


def _records(data: bytes) -> dict[str, str]:
    """Parses pax records, ``"%d %s=%s\\n" % (length of the whole record, key, value)``."""
    records = {}
    while data.rstrip(b"\0"):
        number, _, rest = data.partition(b" ")
        length = int(number)
        if not len(number) < length <= len(data) or data[length - 1] != ord("\n"):
            raise ValueError("a record is cut short")
        key, _, value = rest[: length - len(number) - 2].decode().partition("=")
        records[key] = value
        data = data[length:]
    return records
