"""Data sets of any format to the columns of one index; what changes when a data set does."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from anemone.data.files import digest, find
from anemone.data.jsonlines import OWN, TEXT_FILE, parse, text_of
from anemone.data.locators import below, is_url
from anemone.data.sources import source
from anemone.data.sources.detect import detect
from anemone.data.sources.lines import folder_of, local, read
from anemone.data.sources.names import expand
from anemone.data.sources.tabled import state, tabled
from anemone.data.sources.tarred import TARS

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
        found: Sequence[pa.Table]
        wrong: Sequence[tuple[str, int, str]]
        if part.kind == "jsonl":
            data = Path(part.path).read_bytes() if _is_plain(part.path) else read(part.path)
            table, causes = parse(data, folder_of(part.path), target)
            found, wrong = [table], [(part.path, line, cause) for line, cause in causes]
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


def _is_plain(path: str) -> bool:
    """Whether a file lies here as it is."""
    return not path.endswith(".gz") and not is_url(path)


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
    """One table of several; a key with different types in different manifests becomes strings."""
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException:
        kinds: dict[str, set[str]] = {}
        for field in (field for part in parts for field in part.schema):
            kinds.setdefault(field.name, set()).add(str(field.type))
        for name in [name for name, types in kinds.items() if len(types) > 1]:
            parts = [_as_text(part, name) if name in part.column_names else part for part in parts]
        return pa.concat_tables(parts, promote_options="default")


def _as_text(table: pa.Table, name: str) -> pa.Table:
    values = pa.array([text_of(value) for value in table[name].to_pylist()], pa.string())
    return table.set_column(table.column_names.index(name), name, values)
