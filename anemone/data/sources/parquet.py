"""Parquet with audio in it, as Hugging Face's datasets have it: a file, or a folder of them."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anemone.data.jsonlines import text_of
from anemone.data.locators import Locator, below
from anemone.data.problems import Problem
from anemone.data.row_groups import COLUMNS, audio_column
from anemone.data.sources import Utterance
from anemone.data.sources.jsonl import made
from anemone.data.sources.lines import folder_of, local
from anemone.data.sources.names import expand
from anemone.data.sources.pieces import piece, seconds
from anemone.data.sources.rows import TABLE, row_of, utterance
from anemone.errors import DataError

NAMES = {"id": "id", "duration": "duration", "text": "text", "label": "label", "speaker": "speaker"}
GROUP = 100  # rows that are read at a time when one is asked for


def files(path: str | Path) -> list[str]:
    """Returns the parquet files of a source, a folder's in the order of their paths."""
    if os.path.isdir(path):
        return sorted(os.fspath(found) for found in Path(path).rglob("*.parquet"))
    return [local(name) for name in expand(os.fspath(path))]


def read_parquet(path: str | Path) -> Iterator[Utterance | Problem]:
    """Yields the rows of parquet files; audio is left where it is.

    Raises:
        DataError: one is no parquet file, or has no audio.
    """
    for name in files(path):
        try:
            with pq.ParquetFile(name) as file:
                yield from _rows(name, file)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"`{name}` must be a parquet file, but cannot be read: {error}") from error


def _rows(path: str, file: pq.ParquetFile) -> Iterator[Utterance | Problem]:
    """The rows of one file."""
    schema = file.schema_arrow
    column = audio_column(schema)
    paths = [name for name in COLUMNS if name in schema.names and name != column]
    if column is None and not paths:
        raise DataError(f"`{path}` must have a column of audio, such as `audio`, but has {', '.join(schema.names)}.")
    inside = column is not None and _has_bytes(file, column)
    names = [
        name for name in schema.names if name != column and (name in paths or not _is_bytes(schema.field(name).type))
    ]
    if column is not None and pa.types.is_struct(schema.field(column).type):
        names += [f"{column}.path"] if schema.field(column).type.get_field_index("path") >= 0 else []
    classes, stem, folder, number = _classes(schema), Path(path).stem, folder_of(path), 0
    for batch in file.iter_batches(batch_size=1024, columns=names):
        for row in _as_json(batch).to_pylist():
            at = row.pop(column, None) if column is not None else None
            known = at.get("path") if isinstance(at, dict) else None
            row |= {name: kinds[row[name]] for name, kinds in classes.items() if _is_class(row.get(name), kinds)}

            def make(row: dict[str, Any] = row, known: Any = known, number: int = number) -> Utterance:
                if not inside and known:
                    return utterance(row, folder, TABLE, audio=below(folder, known))
                if not inside:
                    return utterance(row, folder, TABLE)
                name = Path(known).stem if known else f"{stem}-{number}"
                return utterance(row, folder, TABLE, audio=str(Locator(path, row=number)), name=name)

            yield made(make, path, number + 1)
            number += 1


def _is_bytes(kind: pa.DataType) -> bool:
    """Whether values are bytes, or hold some."""
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or any(map(_is_bytes, inner))


def _as_json(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows with times and decimal numbers as strings, and numbers that are not finite left out: as JSON has them."""
    for i, (name, values) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
        if pa.types.is_temporal(values.type) or pa.types.is_decimal(values.type):
            batch = batch.set_column(i, name, values.cast(pa.string()))
        elif pa.types.is_floating(values.type):
            batch = batch.set_column(i, name, pc.if_else(pc.is_finite(values), values, None))
    return batch


def _has_bytes(file: pq.ParquetFile, column: str) -> bool:
    """Whether any row may have audio, by what the file says of itself."""
    meta = file.metadata
    wanted = {column, f"{column}.bytes"}
    for group in range(meta.num_row_groups):
        for i in range(meta.num_columns):
            chunk = meta.row_group(group).column(i)
            if chunk.path_in_schema in wanted:
                stats = chunk.statistics
                if stats is None or not stats.has_null_count or stats.null_count < chunk.num_values:
                    return True
    return False


def _classes(schema: pa.Schema) -> dict[str, list[str]]:
    """Columns of numbers that stand for names, and the names, where Hugging Face's notes have them."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {n: f["names"] for n, f in features.items() if f.get("_type") == "ClassLabel" and f.get("names")}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _is_class(value: Any, names: list[str]) -> bool:
    return isinstance(value, int) and 0 <= value < len(names)


def write_parquet(utterances: Iterable[Utterance], path: str | Path) -> list[Problem]:
    """Writes one parquet file; each utterance's audio is cut out of its recording, so offsets become 0."""
    target, problems, kept = Path(path), list[Problem](), list[Utterance]()
    keys: dict[str, set[type]] = {}
    for each in utterances:  # which columns there are must be known before the first is written
        kept.append(each)
        for key, value in row_of(each, "", NAMES).items():
            keys.setdefault(key, set()).add(type(value))
    schema = _schema(keys)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with pq.ParquetWriter(draft, schema) as writer:
            rows = list[dict[str, Any]]()
            for number, each in enumerate(kept, start=1):
                try:
                    length = seconds(each)
                    data, ending = piece(each._replace(duration=length))
                except DataError as error:
                    problems.append(Problem(os.fspath(path), number, f"`{each.id}`: {error}"))
                    continue
                row = row_of(each._replace(duration=length), "", NAMES)
                row = {
                    key: value if schema.field(key).type != pa.string() else text_of(value)
                    for key, value in row.items()
                }
                rows.append(row | {"audio": {"bytes": data, "path": each.id.replace("/", "_") + ending}})
                if len(rows) == GROUP:
                    writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=GROUP)
                    rows.clear()
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=GROUP)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return problems


def _schema(keys: dict[str, set[type]]) -> pa.Schema:
    """Audio and the columns of some keys: numbers and truths as they are where all are of one kind, else strings."""
    plain = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    kinds = {
        key: plain.get(next(iter(types)), pa.string()) if len(types) == 1 else pa.string()
        for key, types in keys.items()
    }
    kinds |= {"duration": pa.float64()}
    kinds.pop("audio", None)
    fields = [("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), *kinds.items()]
    dtypes = {pa.string(): "string", pa.int64(): "int64", pa.float64(): "float64", pa.bool_(): "bool"}
    features = {name: {"dtype": dtypes[kind], "_type": "Value"} for name, kind in kinds.items()}
    notes = {"info": {"features": {"audio": {"_type": "Audio"}, **features}}}
    return pa.schema(fields, metadata={"huggingface": json.dumps(notes)})
