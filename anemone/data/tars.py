"""What lies where in a tar: read once, header by header, and kept in the cache, so that members are read by offset.

An index is an Arrow file named by a hash of the tar's path, size and time (at a URL: its entity tag). Only regular
files are members; links, devices and sparse files are noted as odd and refused by name. A header may promise any number
of bytes: nothing is read for it but what the file holds.
"""

import functools
import hashlib
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from anemone.cache import cache_folder
from anemone.config import nearest
from anemone.data.locators import Locator, is_url
from anemone.errors import DataError

VERSION = 1  # of the index's layout
HEADER = 1 << 20  # bytes of a header at most: of a long name, or what else a header has to say
BATCH = 65_536  # members at a time


def members(path: str | Path) -> pa.Table:
    """Returns the members of a tar in their order: columns ``name``, ``at`` (first byte), ``size`` (bytes), ``odd``.

    Args:
        path: of the tar, or its URL.

    Returns:
        ``odd`` is null for a file that can be read, else why it cannot: a link, a folder, cut off.

    Raises:
        DataError: it is not there, or no tar.
    """
    name = os.fspath(path)
    return _members(name, _state(name))


def member(path: str | Path, name: str) -> Locator:
    """Returns where a member lies; the last one of several with its name.

    Raises:
        DataError: there is none, or it is a link or something else that is no file.
    """
    table = members(path)
    found = pc.indices_nonzero(pc.equal(table["name"], name))
    if not len(found):
        names = table["name"].slice(0, 10_000).to_pylist()
        raise DataError(f"`{path}` must have a member `{name}`, but has none.{nearest(name, names)}")
    row = table.slice(found[-1].as_py(), 1).to_pylist()[0]
    if row["odd"]:
        raise DataError(f"`{name}` in `{path}` {row['odd']}.")
    return Locator(os.fspath(path), row["at"], row["size"])


def _state(name: str) -> str:
    """What changes when a tar does."""
    if is_url(name):
        from anemone.data import remote

        return remote.state(name)
    try:
        stat = os.stat(name)
    except OSError as error:
        raise DataError(f"`{name}` must be a tar, but cannot be opened: {error.strerror}.") from error
    return f"{os.path.abspath(name)}|{stat.st_size}|{stat.st_mtime_ns}"


@functools.lru_cache(maxsize=64)
def _members(name: str, state: str) -> pa.Table:
    """The index of a tar in a state, from the cache if it is there."""
    key = hashlib.sha256(f"{VERSION}\0{name if is_url(name) else ''}\0{state}".encode()).hexdigest()[:32]
    kept = cache_folder() / "tars" / f"{key}.arrow"
    try:
        return _open(kept)
    except (OSError, pa.ArrowInvalid):
        pass
    table = _scan(name)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.NamedTemporaryFile(dir=kept.parent, suffix=".tmp", delete=False) as copy,
            pa.ipc.new_file(copy, table.schema) as writer,
        ):
            writer.write_table(table)
        os.replace(copy.name, kept)
        return _open(kept)
    except OSError:
        return table


def _open(kept: Path) -> pa.Table:
    with pa.memory_map(os.fspath(kept)) as file:
        return pa.ipc.open_file(file).read_all()


class _Headers:
    """A file that gives no more than a header at a time: a tar's claims cannot fill the memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int) -> bytes:
        if count > HEADER:
            raise tarfile.ReadError(f"a header of {count} bytes")
        return self._file.read(count)


def _opened(name: str) -> tuple[BinaryIO, int]:
    if is_url(name):
        from anemone.data import remote

        files, there = remote.system(name)
        return files.open(there, "rb"), int(files.info(there)["size"])
    return open(name, "rb"), os.stat(name).st_size


def _scan(name: str) -> pa.Table:
    """Reads the headers of a tar."""
    schema = pa.schema({"name": pa.string(), "at": pa.int64(), "size": pa.int64(), "odd": pa.string()})
    batches, rows = [], list[dict[str, Any]]()
    try:
        file, size = _opened(name)
        headers: Any = _Headers(file)
        with file, tarfile.open(fileobj=headers, mode="r:") as tar:
            while (info := tar.next()) is not None:
                vars(tar)["members"] = []  # it would keep them all
                rows.append(_row(info, size))
                if len(rows) == BATCH:
                    batches.append(pa.RecordBatch.from_pylist(rows, schema))
                    rows.clear()
    except (tarfile.TarError, EOFError, OverflowError, UnicodeError) as error:
        if not rows and not batches:
            raise DataError(f"`{name}` must be an uncompressed tar, but is none: {error}.") from error
        if not (rows and rows[-1]["odd"]):
            rows.append({"name": "", "at": 0, "size": 0, "odd": f"is where the tar breaks off: {error}"})
    except OSError as error:
        raise DataError(f"`{name}` cannot be read: {error.strerror or error}.") from error
    return pa.Table.from_batches([*batches, pa.RecordBatch.from_pylist(rows, schema)], schema).combine_chunks()


def _row(info: tarfile.TarInfo, size: int) -> dict[str, Any]:
    """A member, and what keeps it from being read."""
    odd = None
    if info.issym() or info.islnk():
        odd = f"is a link to `{info.linkname}`, which is not followed"
    elif info.issparse() or not info.isreg():
        odd = "is no plain file" if not info.isdir() else "is a folder"
    elif info.size < 0 or info.offset_data + info.size > size:
        odd = f"must have {info.size} bytes, but the tar ends before"
    name = info.name.encode("utf-8", "replace").decode()
    return {"name": name, "at": info.offset_data, "size": min(info.size, 2**62), "odd": odd}
