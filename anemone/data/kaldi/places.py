"""Where Kaldi keeps things: tables with a key a line, places in files, commands.

A place (an "rxfilename") is a path, ``path:OFFSET``, either with a range of rows and columns behind it such as
``[0:9,0:12]``, whose ends are included; or a command and ``|``, whose output is meant. A command runs only where that
was asked for.
"""

import io
import os
import re
import subprocess
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from anemone.data.kaldi.matrices import Array, Format, read_array, read_rows, write_array
from anemone.data.problems import Problem
from anemone.errors import DataError

OPEN = 64  # files that stay open
BEYOND = 3  # rows that the end of a range may lie behind the last: where frames are counted in two ways
PLACE = re.compile(r"(?P<path>.+?)(?::(?P<offset>\d{1,18}))?(?:\[(?P<range>[\d:, ]*)\])?", re.DOTALL)
SPACE = b" \t\r\f\v"


class Entry(NamedTuple):
    """What stands behind a key in a table, and in which line."""

    value: str
    line: int


class Place(NamedTuple):
    """A part of a file; ends of ranges are included, as Kaldi has it, and None is all."""

    path: str
    offset: int = 0
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None


def opened(path: str | Path) -> BinaryIO:
    """Opens a file to read its bytes.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise DataError(f"`{path}` must be a file that can be read: {error.strerror}.") from error


def read_table(path: Path) -> tuple[dict[str, Entry], list[Problem]]:
    """Returns the lines of a table by key, in their order, and what is wrong with others.

    Raises:
        DataError: there is no such file.
    """
    entries: dict[str, Entry] = {}
    problems = []
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            parts = line.strip(SPACE + b"\n").split(None, 1)  # of ASCII alone: words may be held apart by others
            if not parts:
                continue
            try:
                key, value = parts[0].decode(), b"".join(parts[1:]).decode()
            except UnicodeDecodeError as error:
                cause = f"must be text in UTF-8, but has an {error.reason} at byte {error.start}"
                problems.append(Problem(os.fspath(path), number, cause))
                continue
            if key in entries:
                cause = f"`{key}` stands in line {entries[key].line} already"
                problems.append(Problem(os.fspath(path), number, cause))
            else:
                entries[key] = Entry(value, number)
    return entries, problems


def is_command(text: str) -> bool:
    """Whether a place is a command."""
    return text.strip().endswith("|") or text.strip().startswith("|")


def output_of(text: str, where: str, *, trust_commands: bool) -> bytes:
    """Runs the command of a place and returns what it prints.

    Args:
        text: the command, with ``|`` at its end.
        where: file and line it stands in.
        trust_commands: whether the user said that commands of this data set may run.

    Raises:
        DataError: it may not run, or fails; names file and line.
    """
    command = text.strip()
    if not trust_commands:
        raise DataError(
            f"{where}: `{command}` is a command. It runs with all your rights, so say that you trust this data set: "
            "--trust-commands (in Python trust_commands=True)."
        )
    if command.startswith("|"):
        raise DataError(f"{where}: `{command}` is for writing; to be read, a command has its | at the end.")
    done = subprocess.run(["/bin/sh", "-c", command[:-1]], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise DataError(f"{where}: `{command}` ended with status {done.returncode}: {said[-1] if said else 'no word'}.")
    return done.stdout


def parse_place(text: str, where: str) -> Place:
    """Returns the parts of a place that is no command.

    Raises:
        DataError: it cannot be one; names file and line.
    """
    match = PLACE.fullmatch(text.strip())
    if match is None or is_command(text) or text.strip() == "-":
        raise DataError(f"{where}: `{text}` must be a path, or path:offset.")
    ranges = [_range(part, where) for part in (match["range"] or "").split(",")]
    if len(ranges) > 2:
        raise DataError(
            f"{where}: `[{match['range']}]` must be a range of rows and one of columns, such as [0:9,0:12]."
        )
    return Place(match["path"], int(match["offset"] or 0), *ranges)


def _range(text: str, where: str) -> tuple[int, int] | None:
    """``3:5`` as a pair; None for all."""
    if text.strip() in ("", ":"):
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.strip().isdigit() and last.strip().isdigit() and int(first) <= int(last)):
        raise DataError(f"{where}: `[{text}]` must be a range first:last, both included.")
    return int(first), int(last)


class Arks:
    """Matrices by place; the files they lie in stay open, the least used are closed first."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()
        self._process = os.getpid()

    def read(self, place: Place) -> Array:
        """Returns a matrix (T, F) or vector (F,).

        Raises:
            DataError: there is no such file, no matrix at that place, or no such range in it.
        """
        return cut(read_array(self._at(place), f"`{place.path}:{place.offset}`"), place)

    def rows(self, place: Place) -> tuple[int, int]:
        """Returns the sizes (T, F) of a matrix without reading all of it; see `read`."""
        rows, columns = read_rows(self._at(place), f"`{place.path}:{place.offset}`")
        return _inside(place, 0, rows), _inside(place, 1, columns)

    def _at(self, place: Place) -> BinaryIO:
        """A file at the offset; a forked process opens its own, or both would move one position."""
        if self._process != os.getpid():
            self.close()
            self._process = os.getpid()
        file = self._files.get(place.path)
        if file is None:
            file = self._files[place.path] = opened(place.path)
            if len(self._files) > OPEN:
                self._files.popitem(last=False)[1].close()
        else:
            self._files.move_to_end(place.path)
        file.seek(place.offset)
        return file

    def close(self) -> None:
        """Closes all files."""
        while self._files:
            self._files.popitem()[1].close()

    def __del__(self) -> None:
        """Closes all files with the last reference."""
        self.close()

    def __reduce__(self) -> tuple[type["Arks"], tuple[()]]:
        """Another process opens files of its own."""
        return Arks, ()


def cut(array: Array, place: Place) -> Array:
    """Returns the rows and columns of a matrix that a place asks for.

    Raises:
        DataError: they lie beyond its ends.
    """
    if place.rows:
        array = array[place.rows[0] :][: _inside(place, 0, len(array))]
    if place.columns:
        array = array[:, place.columns[0] :][:, : _inside(place, 1, array.shape[-1])]
    return array


def _inside(place: Place, axis: int, size: int) -> int:
    """How many rows or columns a place means, of so many."""
    limits = (place.rows, place.columns)[axis]
    if limits is None:
        return size
    first, last = limits
    if first >= size or last >= size + (0 if axis else BEYOND):
        noun = ("rows", "columns")[axis]
        raise DataError(f"`{place.path}:{place.offset}` has {size} {noun}, but {first} to {last} are asked for.")
    return min(last, size - 1) - first + 1


def read_ark(path: str | Path) -> Iterator[tuple[str, Array]]:
    """Yields key and matrix or vector of each entry of an ark, from its beginning to its end.

    Raises:
        DataError: no such file, or it is broken; names the key.
    """
    with opened(path) as file:
        while key := _key(file, path):
            yield key, read_array(file, f"`{key}` in `{path}`")


def _key(file: BinaryIO, path: str | Path) -> str:
    """The next word, and the space behind it; "" at the end."""
    word = b""
    while (letter := file.read(1)) and (letter not in SPACE + b"\n" or not word):
        word += letter.strip()
        if len(word) > 4096:
            raise DataError(f"`{path}` must be an ark, but no key ends within {len(word)} bytes.")
    return word.decode("utf-8", "replace")


def write_ark(
    path: str | Path, arrays: Iterator[tuple[str, Array]], scp: str | Path | None = None, format: Format = "float"
) -> int:
    """Writes arrays into an ark and, if it is named, a table of where each lies; returns how many there were.

    Args:
        path: of the ark; its absolute path stands in the table.
        arrays: key and matrix or vector of each; keys have no white space, and come sorted by their bytes.
        scp: of the table.
        format: see `write_array`.

    Raises:
        DataError: a key or an array that cannot be written.
    """
    where, lines = Path(path).absolute(), io.BytesIO()
    count = 0
    with where.open("wb") as file:
        for key, array in arrays:
            count += 1
            if len(key.split()) != 1 or key != key.strip():
                raise DataError(f"a key must be one word, but is {key!r} instead.")
            file.write(f"{key} ".encode())
            lines.write(f"{key} {where}:{file.tell()}\n".encode())
            write_array(file, array, format)
    if scp is not None:
        Path(scp).write_bytes(lines.getvalue())
    return count
