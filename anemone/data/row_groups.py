"""Audio in rows of parquet files: a group of rows is unpacked into the cache when the first of them is asked for."""

import functools
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anemone.cache import cache_folder
from anemone.data.locators import Locator
from anemone.errors import DataError

COLUMNS = ("audio", "audio_filepath", "file_name", "file", "path", "wav", "flac", "speech")
"""Where the audio may be, the usual one first."""


def audio_column(schema: pa.Schema) -> str | None:
    """Returns which column has the audio: a struct with ``bytes``, or bytes as they are; None if there is none."""
    names = [name for name in (*COLUMNS, *schema.names) if name in schema.names]
    return next((name for name in names if holds_bytes(schema.field(name).type)), None)


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether values of a type are files: bytes, or a struct with ``bytes``."""
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def audio_of(path: str, row: int) -> Locator:
    """Returns where the audio of a row lies.

    Raises:
        DataError: it is no parquet file with audio, or has no such row, or no audio there.
    """
    try:
        stat = os.stat(path)
        starts, column = _groups(path, stat.st_size, stat.st_mtime_ns)
        if column is None or not 0 <= row < starts[-1]:
            raise DataError(f"`{path}` must have audio in row {row}, but has {starts[-1]} rows, audio in `{column}`.")
        group = int(np.searchsorted(starts, row, "right")) - 1
        key = f"{os.path.abspath(path)}|{stat.st_size}|{stat.st_mtime_ns}|{group}"
        kept = cache_folder() / "parquet" / hashlib.sha256(key.encode()).hexdigest()[:32]
        if not kept.exists():
            _unpack(path, group, column, kept)
        at, end = np.fromfile(kept, np.int64, 2, offset=8 * (row - starts[group])).tolist()
    except (OSError, pa.ArrowException, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"`{path}` must be a parquet file, but cannot be read: {error}") from error
    if at == end:
        raise DataError(f"`{path}` has no audio in row {row}.")
    return Locator(os.fspath(kept), at, end - at)


@functools.lru_cache(maxsize=256)
def _groups(path: str, size: int, time: int) -> tuple[list[int], str | None]:
    """First rows of the groups and the number of all, and the column of audio."""
    with pq.ParquetFile(path) as file:
        counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        return [0, *np.cumsum(counts, dtype=np.int64).tolist()], audio_column(file.schema_arrow)


def _unpack(path: str, group: int, column: str, kept: Path) -> None:
    """Writes the audio of a group: where each begins and the last ends (int64), then the bytes."""
    with pq.ParquetFile(path) as file:
        values = file.read_row_group(group, columns=[column])[column]
    files = [value.get("bytes") if isinstance(value, dict) else value for value in values.to_pylist()]
    sizes = [len(data or b"") for data in files]
    places = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64) + 8 * (len(sizes) + 1)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=kept.parent, suffix=".tmp", delete=False) as copy:
        copy.write(places.tobytes())
        for data in files:
            copy.write(data or b"")
    os.replace(copy.name, kept)
