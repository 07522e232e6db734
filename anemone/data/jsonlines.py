"""Lines of JSON to columns: fast where all lines are well formed, exact about each line where some are not."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from anemone.data.locators import URL, below, is_file, read_audio

Cause = tuple[int, str]  # a line number and what is wrong there

# what the index needs -> the keys that may hold it, the usual one first
KEYS = {
    "audio": ("audio_filepath", "audio_filename"),
    "offset": ("offset",),
    "duration": ("duration",),
    "text": ("text",),
    "label": ("label", "command"),
}
SKIP = "_skipme"  # lines where this is true are left out without a word
TEXT_FILE = "text_filepath"  # where a text is that a line does not have
LONGEST = 1 << 22  # bytes of a text in a file of its own
OWN = ("@audio", "@offset", "@duration", "@target", "@line")


def parse(data: bytes, folder: str | Path, target: str) -> tuple[pa.Table, list[Cause]]:
    """Returns the usable lines as columns, and what is wrong with the others.

    Args:
        data: a manifest.
        folder: where it lies, or its URL; audio paths are relative to it.
        target: "text" or "label".

    Returns:
        Of all lines but those with ``"_skipme": true``, columns ``@audio`` (absolute), ``@offset`` and ``@duration``
        (seconds), ``@target``, ``@line`` (from 1), then all further keys under their own names.
    """
    table, causes = _fast(data, target) or _exact(data, target)
    table, unread = _with_texts(_without_skipped(table), folder, target)
    good, more = _check(table, target)
    return _absolute(good, folder), sorted(causes + unread + more)


# --- the fast way: Arrow's reader, where it can be trusted to give one row for one line -------------------------------


def _fast(data: bytes, target: str) -> tuple[pa.Table, list[Cause]] | None:
    """All lines at once, or None if any is odd in whatever way."""
    lines = _lines_of_objects(data)
    if lines is None or not len(lines):
        return None
    schema = {key: pa.string() for key in KEYS["audio"] + (KEYS["text"] if target == "text" else ())}
    schema |= {"offset": pa.float64(), "duration": pa.float64()}
    try:
        raw = _read(data, schema)
        dates = {field.name: pa.string() for field in raw.schema if pa.types.is_timestamp(field.type)}
        raw = _read(data, schema | dates) if dates else raw
        raw.validate(full=True)  # UTF-8
    except (pa.ArrowException, UnicodeError):
        return None
    odd = [field for field in raw.schema if "timestamp" in str(field.type)]
    odd += [field for field in raw.schema if any(map(may_have_lost_digits, _doubles(raw[field.name])))]
    labels = [raw[key] for key in KEYS[target] if key in raw.column_names]
    labels += [raw[TEXT_FILE]] if target == "text" and TEXT_FILE in raw.column_names else []
    readable = all(str(column.type) in {"string", "int64", "null"} for column in labels)
    if len(raw) != len(lines) or odd or not labels or not readable:
        return None
    own = {
        "@audio": _first(raw, KEYS["audio"], pa.string()),
        "@offset": raw["offset"],
        "@duration": raw["duration"],
        "@target": _first(raw, KEYS[target], pa.string()),
        "@line": pa.array(lines, pa.int32()),
    }
    further = {name: raw[name] for name in raw.column_names if name not in {*OWN, *_consumed(target)}}
    return pa.table({**own, **further}), []


def _lines_of_objects(data: bytes) -> npt.NDArray[np.int64] | None:
    """Numbers, from 1, of the lines that are not blank; None unless each begins with { and ends with }."""
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([[0], ends + 1])
    ends = np.concatenate([ends, [len(text)]])
    ends = ends - ((ends > starts) & (text[np.maximum(ends - 1, 0)] == ord("\r"))) if len(text) else ends
    full = np.flatnonzero(ends > starts)
    whole = (text[starts[full]] == ord("{")) & (text[ends[full] - 1] == ord("}"))
    return full + 1 if whole.all() else None


def _read(data: bytes, schema: dict[str, pa.DataType]) -> pa.Table:
    options = pyarrow.json.ParseOptions(explicit_schema=pa.schema(list(schema.items())))
    reading = pyarrow.json.ReadOptions(block_size=8 << 20)
    return pyarrow.json.read_json(pa.BufferReader(data), reading, options)


def _doubles(column: Any) -> Iterator[Any]:
    """A column of doubles, or those within lists and objects."""
    if pa.types.is_floating(column.type):
        yield column
    elif pa.types.is_nested(column.type):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        for values in (chunk.flatten() for chunk in chunks):
            for value in values if isinstance(values, list) else [values]:
                yield from _doubles(value)


def may_have_lost_digits(column: Any) -> bool:
    """Whether a column of numbers has some that a double may not hold exactly."""
    largest = pc.max(pc.abs(column)).as_py()
    return largest is not None and not largest < 2**53


def _first(table: pa.Table, keys: Sequence[str], kind: pa.DataType) -> pa.ChunkedArray:
    """Row by row the first of some columns that has a value."""
    return pc.coalesce(*[table[key].cast(kind) for key in keys if key in table.column_names])


def _consumed(target: str) -> set[str]:
    """Keys that become columns of the index."""
    return {*KEYS["audio"], *KEYS["offset"], *KEYS["duration"], *KEYS[target]}


# --- the exact way: line by line --------------------------------------------------------------------------------------


def _exact(data: bytes, target: str) -> tuple[pa.Table, list[Cause]]:
    """Each line by itself."""
    rows, causes = [], []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            try:
                rows.append(_object(line, target) | {"@line": number})
            except ValueError as error:
                causes.append((number, str(error)))
    types = {"@audio": pa.string(), "@offset": pa.float64(), "@duration": pa.float64(), "@target": pa.string()}
    own = {name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()}
    own["@line"] = pa.array([row["@line"] for row in rows], pa.int32())
    names = dict.fromkeys(name for row in rows for name in row if name not in OWN)
    return pa.table({**own, **{name: column_of([row.get(name) for row in rows]) for name in names}}), causes


def parsed(line: bytes) -> dict[str, Any]:
    """Returns the object of a line of JSON.

    Raises:
        ValueError: it is none, or not Unicode.
    """
    try:
        row = json.loads(line.decode())
        if b"\\u" in line:  # only so can half a pair be written
            json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.colno}") from error
    except UnicodeError as error:
        raise ValueError(f"is not Unicode text: {error}") from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f"is not JSON that can be read: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"must be an object in braces, but is {type(row).__name__} instead")
    return row


def _object(line: bytes, target: str) -> dict[str, Any]:
    """One line as the index's own columns and further keys.

    Raises:
        ValueError: not an object of JSON, or a value of the wrong type.
    """
    row = parsed(line)
    own = {
        "@audio": _typed(row, "audio", str, "a string"),
        "@offset": _typed(row, "offset", int | float, "a number of seconds"),
        "@duration": _typed(row, "duration", int | float, "a number of seconds"),
        "@target": _typed(row, target, str if target == "text" else str | int | float, "a string"),
    }
    own["@target"] = own["@target"] if own["@target"] is None else str(own["@target"])
    return own | {key: value for key, value in row.items() if key not in _consumed(target) and key not in OWN}


def _typed(row: dict[str, Any], name: str, kind: Any, rule: str) -> Any:
    """The value of the first key that holds it, or None."""
    for key in KEYS[name]:
        value = row.get(key)
        if value is not None:
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"`{key}` must be {rule}, but is {value!r} instead")
            return value
    return None


def column_of(values: list[Any]) -> pa.Array:
    """Returns a column of one type; strings, where values have none in common."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError):
        return pa.array([text_of(value) for value in values], pa.string())


def text_of(value: Any) -> str | None:
    """A string as it is, anything else as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- what both ways share ---------------------------------------------------------------------------------------------


def _without_skipped(table: pa.Table) -> pa.Table:
    """Takes out the lines that ask for it."""
    if SKIP not in table.column_names:
        return table
    keep = [value not in (True, "true") for value in table[SKIP].to_pylist()]
    return table.filter(pa.array(keep, pa.bool_())).drop_columns([SKIP])


def _with_texts(table: pa.Table, folder: str | Path, target: str) -> tuple[pa.Table, list[Cause]]:
    """Reads the texts that lines have in files of their own; takes out those where there is none."""
    if target != "text" or TEXT_FILE not in table.column_names or not table["@target"].null_count:
        return table, []
    texts, causes = table["@target"].to_pylist(), list[Cause]()
    paths, lines = table[TEXT_FILE].to_pylist(), table["@line"].to_pylist()
    for i, path in enumerate(paths):
        if texts[i] is None and isinstance(path, str):
            try:
                texts[i] = text_in(below(folder, path))
            except ValueError as error:
                causes.append((lines[i], str(error)))
    table = table.set_column(table.column_names.index("@target"), "@target", pa.array(texts, pa.string()))
    gone = {line for line, _ in causes}
    return (table.filter(pa.array([line not in gone for line in lines])) if gone else table), causes


def text_in(path: str) -> str:
    """Returns the text in a file, without the line's end.

    Raises:
        ValueError: it cannot be read, or is no text.
    """
    if is_file(path) and not (os.path.isfile(path) and os.path.getsize(path) <= LONGEST):
        raise ValueError(f"`{TEXT_FILE}` must be a text file that exists, but is {path!r} instead")
    try:
        return read_audio(path).decode().removesuffix("\n").removesuffix("\r")
    except (ValueError, OSError) as error:
        raise ValueError(f"`{TEXT_FILE}` must be a text file, but `{path}` is not: {error}") from error


def _check(table: pa.Table, target: str) -> tuple[pa.Table, list[Cause]]:
    """Takes out the lines that lack a value or have an impossible one."""
    audio, offset, duration, aim = (table[name] for name in OWN[:4])
    seconds, begin = (column.to_numpy() for column in (duration, pc.fill_null(offset, 0.0)))
    bad = pc.is_null(duration).to_numpy() | ~(seconds > 0) | ~np.isfinite(seconds) | ~(begin >= 0) | ~np.isfinite(begin)
    bad |= pc.is_null(aim).to_numpy() | pc.fill_null(pc.equal(audio, ""), True).to_numpy()
    table = table.set_column(1, "@offset", pc.fill_null(offset, 0.0))
    if not bad.any():
        return table, []
    causes = [(row["@line"], _cause(row, target)) for row in table.select(OWN).filter(pa.array(bad)).to_pylist()]
    return table.filter(pa.array(~bad)), causes


def _cause(row: dict[str, Any], target: str) -> str:
    """The first thing that is wrong with a line."""
    rules: list[tuple[str, str, str, Callable[[Any], bool]]] = [
        ("@audio", KEYS["audio"][0], "a path", bool),
        ("@duration", "duration", "above 0 seconds", lambda value: 0 < value < np.inf),
        ("@offset", "offset", "0 seconds or more", lambda value: 0 <= value < np.inf),
        ("@target", " or ".join(KEYS[target]), "a string", lambda value: True),
    ]
    for column, key, rule, holds in rules:
        if row[column] is None:
            return f"lacks `{key}`"
        if not holds(row[column]):
            return f"`{key}` must be {rule}, but is {row[column]!r} instead"
    raise AssertionError(row)


def _absolute(table: pa.Table, folder: str | Path) -> pa.Table:
    """Audio paths below the manifest's folder, or below the home folder where they begin with ~; URLs as they are."""
    audio = table["@audio"].cast(pa.string())
    below = pc.binary_join_element_wise(os.fspath(folder), audio, "/")
    at_home = pc.binary_join_element_wise(os.path.expanduser("~"), pc.utf8_slice_codeunits(audio, 2), "/")
    fixed = pc.or_(pc.starts_with(audio, "/"), pc.match_substring_regex(audio, f"^{URL.pattern}"))
    paths = pc.if_else(fixed, audio, pc.if_else(pc.starts_with(audio, "~/"), at_home, below))
    return table.set_column(0, "@audio", paths)
