"""Lines of manifests out: some rows of an index, as they were written, with recordings that are found from there.

A line of JSON is copied byte by byte, with every key it has. Only the paths in it change, and only where
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
from anemone.data.jsonlines import KEYS, TEXT_FILE
from anemone.data.locators import below, is_url, relative
from anemone.data.manifest import Index
from anemone.data.sources.detect import detect
from anemone.data.sources.lines import folder_of, lines
from anemone.errors import DataError

PLAIN = re.compile(rb'"audio_filepath"\s*:\s*("(?:[^"\\]|\\.)*")')
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
    names, home = source_names(index), os.path.abspath(folder)
    sources = index.table["@source"].to_numpy()
    reader: Iterator[tuple[int, bytes]] = iter(())
    current, here = -1, ""
    for piece in slices(len(rows), CHUNK):
        numbers = rows[piece]
        part = index.table.select(["@audio", "@line"]).take(pa.array(numbers, pa.int64()))
        audios, at = part["@audio"].to_pylist(), part["@line"].to_pylist()
        for number, audio, line in zip(numbers.tolist(), audios, at, strict=True):
            if sources[number] != current:
                current = int(sources[number])
                here = folder_of(names[current])
                reader = lines(names[current]) if detect(names[current]) == "jsonl" else iter(())
            original = next((text for found, text in reader if found == line), None)
            if original is None:
                yield _made(index, number, home)
            else:
                text = original.removesuffix(b"\r")
                yield text if here == home else _spliced(text, audio, here, home)


def _spliced(line: bytes, audio: str, here: str, home: str) -> bytes:
    """A line of a manifest in ``here`` as it must be in one in ``home``: only its paths differ."""
    match = PLAIN.search(line) if line.count(b'"audio_filepath"') == line.count(b"{") == 1 else None
    if match and b'"text_filepath"' not in line:
        found = [(match.start(1), match.end(1), json.loads(match[1]), audio)]
    else:
        values = _values(line.decode())
        key = next(key for key in KEYS["audio"] if key in values)
        found = [(*values[key], audio)]
        if TEXT_FILE in values and isinstance(values[TEXT_FILE][2], str):
            found.append((*values[TEXT_FILE], below(here, values[TEXT_FILE][2])))
    for start, end, old, path in sorted(found, reverse=True):
        if not (old.startswith("~/") or is_url(old) or os.path.isabs(old)):
            line = line[:start] + json.dumps(relative(home, path), ensure_ascii=False).encode() + line[end:]
    return line


def _values(text: str) -> dict[str, tuple[int, int, Any]]:
    """Of each key of an object whose value is not null: the bytes where this begins and ends, and what it is."""
    found: dict[str, tuple[int, int, Any]] = {}
    at = text.index("{") + 1
    while (quote := text.find('"', at)) >= 0:
        key, at = scanstring(text, quote + 1, False)
        at = text.index(":", at) + 1
        at += len(text[at:]) - len(text[at:].lstrip())
        value, end = DECODER.raw_decode(text, at)
        found.pop(key, None)
        if value is not None:
            found[key] = len(text[:at].encode()), len(text[:end].encode()), value
        at = end
    return found


def _made(index: Index, number: int, home: str) -> bytes:
    """A line of what the index knows of a row."""
    row = index.row(number)
    line: dict[str, Any] = {"audio_filepath": relative(home, row.audio), "duration": row.duration}
    line |= {"offset": row.offset} if row.offset else {}
    line |= {Columns(index).target: row.target, "id": row.id}
    further = {name: index.table[name][number].as_py() for name in index.columns}
    return json.dumps(line | {k: v for k, v in further.items() if v is not None}, ensure_ascii=False).encode()
