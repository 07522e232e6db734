"""Data sets of any format to the columns of one index; what changes when a data set does."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anemone.data.files import digest, find
from anemone.data.jsonlines import OWN, TEXT_FILE, may_have_lost_digits, parse, text_of
from anemone.data.locators import below, is_url
from anemone.data.problems import Problem
from anemone.data.sources import source
from anemone.data.sources.detect import detect
from anemone.data.sources.lines import folder_of, local, pieces
from anemone.data.sources.names import expand
from anemone.data.sources.tabled import Columns, state, tabled
from anemone.data.sources.tarred import TARS

BLOCK = 1 << 25  # bytes of lines that are parsed at once
HASHED = ("jsonl", "csv", "lhotse")  # formats known by what they hold; others, by sizes and times


class Part(NamedTuple):
    """A file or folder of an index.

    Attributes:
        path: of it.
        number: of what was asked for; a pattern asks for several files.
        kind: its format.
        state: what changes when it does.
    """

    path: str
    number: int
    kind: str
    state: str


def parts_of(manifest: str, number: int) -> list[Part]:
    """Returns the files of what was asked for, with their formats.

    Raises:
        DataError: there is no such file or folder, or its format cannot be told.
    """
    text = os.path.expanduser(manifest)
    names = [text] if os.path.isdir(text) or TARS in text else [_found(name) for name in expand(text)]
    kinds = [detect(name) for name in names]
    return [
        Part(name, number, kind, digest(Path(local(name))) if kind in HASHED else state(name))
        for name, kind in zip(names, kinds, strict=True)
    ]


def _found(name: str) -> str:
    return name if is_url(name) else os.fspath(find(name, noun="manifest", pattern="*.json*"))


def build(parts: Sequence[Part], target: str) -> pa.Table:
    """Parses manifests into the table of an index, of one chunk a column."""
    tables, prints, problems = list[pa.Table](), list[str](), list[tuple[str, int, str]]()
    for number, part in enumerate(parts):
        if part.kind == "jsonl":
            found, wrong = _parsed(part.path, target)
            prints.append(part.state)
        else:
            found, wrong = tabled(source(part.kind).read(part.path), part.path, target)
            prints.append(_print(found))
        tables += [table.append_column("@source", pa.array(np.full(len(table), number, np.int32))) for table in found]
        problems += wrong
    table = _joined(tables).combine_chunks()
    names = [part.path for part in parts]
    notes = {
        "problems": problems,
        "fingerprint": hashlib.sha256("".join(prints).encode()).hexdigest()[:16],
        "sources": names,
        "sets": [part.number for part in parts],
        "texts": state_of_texts(table, names),
    }
    return table.replace_schema_metadata({"anemone": json.dumps(notes)})


def _parsed(path: str, target: str) -> Columns:
    """The lines of a manifest of JSON lines, block by block: an odd line costs time in its block alone."""
    columns, folder = Columns([], []), folder_of(path)
    for before, block in _blocks(path):
        table, causes = parse(block, folder, target)
        lines = pc.add(table["@line"], before).cast(pa.int32())
        columns.parts.append(table.set_column(table.column_names.index("@line"), "@line", lines))
        columns.problems.extend(Problem(path, before + line, cause) for line, cause in causes)
    return columns


def _blocks(path: str) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a file, some megabytes at a time, each with the number of lines before; one block at least."""
    before, size, rest = 0, 0, list[bytes]()
    for piece in pieces(path):
        rest.append(piece)
        size += len(piece)
        if size >= BLOCK and b"\n" in piece:
            whole, newline, tail = b"".join(rest).rpartition(b"\n")
            yield before, whole + newline
            before, size, rest = before + whole.count(b"\n") + 1, len(tail), [tail]
    yield before, b"".join(rest)


def _print(tables: Sequence[pa.Table]) -> str:
    """Hash of what utterances are, wherever their recordings lie."""
    found = hashlib.sha256()
    for table in tables:
        for name in ("id", *OWN[1:4]):
            if name in table.column_names:
                found.update(json.dumps(table[name].to_pylist()).encode())
    return found.hexdigest()


def state_of_texts(table: pa.Table, sources: Sequence[str]) -> str | None:
    """Returns a hash of sizes and times of the files that texts are read from; None if there are none."""
    if TEXT_FILE not in table.column_names:
        return None
    found = hashlib.sha256()
    for path, number in zip(table[TEXT_FILE].to_pylist(), table["@source"].to_pylist(), strict=True):
        if isinstance(path, str):
            place = below(os.path.dirname(os.path.abspath(sources[number])), path)
            stat = os.stat(place) if os.path.exists(place) else None
            found.update(f"{place}|{stat and stat.st_size}|{stat and stat.st_mtime_ns}".encode())
    return found.hexdigest()


def _joined(parts: list[pa.Table]) -> pa.Table:
    """One table of several; a key whose types have no type in common that keeps all values becomes strings."""
    kinds: dict[str, set[pa.DataType]] = {}
    for field in (field for part in parts for field in part.schema):
        kinds.setdefault(field.name, set()).add(field.type)
    for name in [name for name, types in kinds.items() if len(types) > 1 and not _common(parts, name)]:
        parts = [_as_text(part, name) if name in part.column_names else part for part in parts]
    return pa.concat_tables(parts, promote_options="permissive")


def _common(parts: list[pa.Table], name: str) -> bool:
    """Whether the values of a key can be one column."""
    columns = [part.select([name]) for part in parts if name in part.column_names]
    try:
        kind = pa.concat_tables(columns, promote_options="permissive").schema.field(name).type
    except pa.ArrowException:
        return False
    whole = [column[name] for column in columns if pa.types.is_integer(column.schema.field(name).type)]
    return not pa.types.is_floating(kind) or not any(map(may_have_lost_digits, whole))


def _as_text(table: pa.Table, name: str) -> pa.Table:
    values = pa.array([text_of(value) for value in table[name].to_pylist()], pa.string())
    return table.set_column(table.column_names.index(name), name, values)
