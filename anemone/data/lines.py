"""Lines of manifests out: some rows of an index, as they were written, with recordings that are found from there.

A line of JSON is copied byte by byte, with every key it has. Only the value of its recording changes, and only where
it would no longer be found: a path below the new manifest's folder becomes relative to it, any other one absolute. A
row of a source that is no JSON lines becomes a line of all that the index knows.
"""

import gzip
import json
import os
import re
import tempfile
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from anemone.data.columns import CHUNK, Columns, slices, source_names
from anemone.data.jsonlines import KEYS
from anemone.data.locators import is_file, relative
from anemone.data.manifest import Index
from anemone.errors import DataError

PLAIN = re.compile(rb'"audio_filepath"\s*:\s*("(?:[^"\\]|\\.)*")')
BOM = b"\xef\xbb\xbf"
DECODER = json.JSONDecoder()


def write_lines(index: Index, rows: npt.NDArray[Any], out: str | Path) -> Path:
    """Writes a manifest of some rows, in the order of their sources, and returns where it is.

    Args:
        index: the data set.
        rows: numbers of rows, each at most once.
        out: ``.jsonl`` or ``.json``, with ``.gz`` after it or not; what is there is replaced in one step at the end.

    Raises:
        DataError: ``out`` is one of the sources.
    """
    return write_parts(index, {str(out): rows})[0]


def write_parts(index: Index, parts: dict[str, npt.NDArray[Any]]) -> list[Path]:
    """Writes a manifest for each of several sets of rows; all of them come in their places when all are written.

    Args:
        index: the data set.
        parts: where a manifest is to be -> numbers of rows.

    Raises:
        DataError: a manifest is to be where a source is.
    """
    paths = [Path(name) for name in parts]
    for path in paths:
        if any(name and os.path.exists(name) and _same(path, name) for name in source_names(index)):
            raise DataError(f"`{path}` must not be one of the manifests it is made of.")
        path.parent.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    try:
        for path, rows in zip(paths, parts.values(), strict=True):
            written.append(_written(index, np.sort(rows), path))
        for name, path in zip(written, paths, strict=True):
            os.replace(name, path)
    finally:
        for name in written:
            Path(name).unlink(missing_ok=True)
    return paths


def _same(path: Path, name: str) -> bool:
    return path.exists() and os.path.samefile(path, name)


def _written(index: Index, rows: npt.NDArray[Any], path: Path) -> str:
    """The name of a file beside ``path`` with the lines; it is whole on the disk."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
        try:
            stream: Any = file
            if path.suffix == ".gz":
                stream = gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0)
            for line in moved(index, rows, path.parent):
                stream.write(line + b"\n")
            if path.suffix == ".gz":
                stream.close()
            file.flush()
            os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(file.name, 0o666 & ~mask)  # as of any other file
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return file.name


def moved(index: Index, rows: npt.NDArray[Any], folder: Path) -> Iterator[bytes]:
    """Yields the lines of rows, ascending, as they must be in a manifest in ``folder``; without ends of lines."""
    names, folder = source_names(index), folder.absolute()
    sources = index.table["@source"].to_numpy()
    reader: Iterator[tuple[int, bytes]] = iter(())
    current = -1
    for piece in slices(len(rows), CHUNK):
        numbers = rows[piece]
        part = index.table.select(["@audio", "@line"]).take(pa.array(numbers))
        audios, lines = part["@audio"].to_pylist(), part["@line"].to_pylist()
        for number, audio, line in zip(numbers.tolist(), audios, lines, strict=True):
            if sources[number] != current:
                current = int(sources[number])
                here = Path(names[current]).absolute().parent
                stays = here == folder
                reader = _objects(names[current])
            original = next((text for at, text in reader if at == line), None)
            if original is None:
                yield _made(index, number, folder)
            elif stays and is_file(audio):
                yield original
            else:
                yield _spliced(original, audio, folder)


def _objects(name: str) -> Iterator[tuple[int, bytes]]:
    """Numbers, from 1, and bytes of a file's lines; nothing, if it is no file of JSON lines."""
    if not os.path.isfile(name):
        return
    with gzip.open(name) if name.endswith(".gz") else open(name, "rb") as file:
        for number, line in enumerate(file, start=1):
            text = (line.removeprefix(BOM) if number == 1 else line).rstrip(b"\r\n")
            if number == 1 and text and not text.lstrip().startswith((b"{", b"[")):
                return
            yield number, text


def _spliced(line: bytes, audio: str, folder: Path) -> bytes:
    """A line with another value for its recording, and else as it is."""
    match = PLAIN.search(line) if line.count(b'"audio_filepath"') == 1 and line.count(b"{") == 1 else None
    if match:
        before, after, value = line[: match.start(1)], line[match.end(1) :], json.loads(match[1])
    else:
        text = line.decode()
        start, end, value = _value(text)
        before, after = text[:start].encode(), text[end:].encode()
    if value == audio or str(value).startswith("~/"):
        return line
    return before + json.dumps(relative(folder, audio), ensure_ascii=False).encode() + after


def _value(text: str) -> tuple[int, int, str]:
    """Where the value of a line's recording begins and ends, and what it is."""
    found: dict[str, tuple[int, int, str]] = {}
    at = text.index("{") + 1
    while '"' in text[at:]:
        at = text.index('"', at)
        key, at = scanstring(text, at + 1, False)
        at = text.index(":", at) + 1
        at += len(text[at:]) - len(text[at:].lstrip())
        value, end = DECODER.raw_decode(text, at)
        if value is not None:
            found[key] = at, end, value
        at = end
    return next(found[key] for key in KEYS["audio"] if key in found)


def _made(index: Index, number: int, folder: Path) -> bytes:
    """A line of what the index knows of a row."""
    columns, row = Columns(index), index.row(number)
    line: dict[str, Any] = {"audio_filepath": relative(folder, row.audio), "duration": row.duration}
    line |= {"offset": row.offset} if row.offset else {}
    line |= {columns.target: row.target, "id": row.id}
    further = {name: index.table[name][number].as_py() for name in index.columns}
    return json.dumps(line | {k: v for k, v in further.items() if v is not None}, ensure_ascii=False).encode()
