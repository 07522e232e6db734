"""Kaldi's matrices and vectors: what stands in an ``ark`` behind a key.

Binary ones begin with a zero byte and ``B``, a token and sizes; all else is text in brackets. Of compressed matrices
there are three sorts: ``CM`` (a byte a number between four percentiles of its column), and ``CM2`` and ``CM3`` (two
bytes or one between the least and the largest number of the whole matrix). A size that a header claims is compared with
what the file holds before memory is asked for.
"""

import io
import math
import os
import struct
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from anemone.errors import DataError

Array = npt.NDArray[Any]
Format = Literal["float", "double", "cm1", "cm2", "cm3", "text"]

FORMATS: tuple[Format, ...] = get_args(Format)
BINARY = b"\0B"
LARGEST = 2**20  # bytes that may be asked for before the size of the file is looked at
MOST_TEXT = 2**30  # bytes of a matrix in text
INTEGERS = b"\4"  # what a vector of integers begins with: the bytes of each
PLAIN = {b"FM": ("<f4", 2), b"DM": ("<f8", 2), b"FV": ("<f4", 1), b"DV": ("<f8", 1)}  # token -> number, axes
WIDTHS = {"<f4": 4, "<f8": 8, "<u2": 2, "u1": 1, "<i1, <i4": 5}  # bytes of a number
CODED = {b"CM": "cm1", b"CM2": "cm2", b"CM3": "cm3"}
SIZES = {token: (WIDTHS[dtype], 0) for token, (dtype, _) in PLAIN.items()}  # token -> bytes of a number, of a column
SIZES |= {INTEGERS: (5, 0), b"CM": (1, 8), b"CM2": (2, 0), b"CM3": (1, 0)}

# What each of the 256 codes of `CM` is, as weights of the four percentiles of its column: straight lines between them.
_KNOTS = np.eye(4, dtype=np.float32)
CURVE = np.stack([np.interp(np.arange(256), [0, 64, 192, 255], row) for row in _KNOTS]).astype(np.float32)


class Shape(NamedTuple):
    """What the beginning of a binary matrix or vector says."""

    token: bytes
    rows: int
    columns: int
    least: float = 0.0
    span: float = 0.0


def read_array(file: BinaryIO, where: str) -> Array:
    """Returns the matrix (T, F) or vector (F,) that begins at the position of a file, and leaves the file behind it.

    Float32 where it is stored so or compressed, float64 where it is stored so, int32 of a vector of integers.

    Args:
        file: opened in binary mode.
        where: what to call it in messages.

    Raises:
        DataError: it is not Kaldi's, ends early, or claims more than the file holds.
    """
    mark = file.read(2)
    if mark != BINARY:
        return _text(mark, file, where)
    shape = _shape(file, where)
    if shape.token in PLAIN:
        dtype, axes = PLAIN[shape.token]
        return _filled(file, (shape.rows, shape.columns)[:axes], dtype, where)
    if shape.token == INTEGERS:
        return _integers(file, shape.rows, where)
    return DECODERS[CODED[shape.token]](file, shape, where)


def read_rows(file: BinaryIO, where: str) -> tuple[int, int]:
    """Returns the sizes (T, F) of the matrix at the position of a file; of a binary one only its beginning is read.

    Raises:
        DataError: as `read_array`.
    """
    start = file.tell()
    if file.read(2) == BINARY:
        shape = _shape(file, where)
        number, column = SIZES[shape.token]
        _check_claim(file, shape[1:3], (shape.rows * number + column) * shape.columns, where)
        return shape.rows, shape.columns
    file.seek(start)
    array = read_array(file, where)
    return len(array), array.shape[-1]


def _shape(file: BinaryIO, where: str) -> Shape:
    """Token and sizes; checks that they can be."""
    head = file.read(8)
    token = head[:1] if head[:1] == INTEGERS else head[:4].partition(b" ")[0]
    try:
        if token == INTEGERS:
            file.seek(5 - len(head), os.SEEK_CUR)
            shape = Shape(token, struct.unpack("<i", head[1:5])[0], 1)
        elif token in CODED:
            rest = head[len(token) + 1 :] + file.read(9 + len(token))
            least, span, rows, columns = struct.unpack("<ffii", rest)
            shape = Shape(token, rows, columns, least, span)
        elif token in PLAIN:
            sizes = head[3:] + (file.read(5) if PLAIN[token][1] == 2 else b"\4\1\0\0\0")
            one, rows, other, columns = struct.unpack("<bibi", sizes)
            if (one, other) != (4, 4):
                raise DataError(f"{where}: sizes of a matrix must have 4 bytes each, but have {one} and {other}.")
            shape = Shape(token, rows, columns)
        else:
            known = ", ".join(name.decode() for name in (*PLAIN, *CODED))
            raise DataError(f"{where} must be a matrix or vector of Kaldi ({known}), but begins with {head[:4]!r}.")
    except struct.error:
        raise _ends_early(where) from None
    if shape.rows < 0 or shape.columns < 0:
        raise DataError(f"{where} must have sizes of 0 or more, but claims {shape.rows} x {shape.columns}.")
    return shape


def _filled(file: BinaryIO, sizes: tuple[int, ...], dtype: str, where: str) -> Array:
    """An array read from the position on."""
    wanted = math.prod(sizes) * WIDTHS[dtype]
    _check_claim(file, sizes, wanted, where)
    array = np.empty(sizes, dtype)
    if wanted and file.readinto(array) != wanted:  # type: ignore[attr-defined]
        raise _ends_early(where)
    return array


def _check_claim(file: BinaryIO, sizes: tuple[int, ...], wanted: int, where: str) -> None:
    """Refuses what is large and more than the file holds."""
    if wanted > LARGEST and wanted > (left := _left(file)):
        shape = " x ".join(map(str, sizes))
        raise DataError(f"{where} claims {shape} numbers, {wanted} bytes, but the file has {left} more.")


def _left(file: BinaryIO) -> int:
    """Bytes from the position to the end."""
    here = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(here)
    return end - here


def _ends_early(where: str) -> DataError:
    return DataError(f"{where} ends within a matrix: the file is cut off, or the offset is not one of its own.")


def _integers(file: BinaryIO, count: int, where: str) -> Array:
    """A vector of integers, each with its width in front."""
    return _filled(file, (count,), "<i1, <i4", where)["f1"].copy()


def _one_byte_by_column(file: BinaryIO, shape: Shape, where: str) -> Array:
    corners = _filled(file, (shape.columns, 4), "<u2", where)
    codes = _filled(file, (shape.columns, shape.rows), "u1", where)
    table = (np.float32(shape.least) + np.float32(shape.span / 65535) * corners) @ CURVE  # (F, 4) -> (F, 256)
    places = codes + np.arange(0, 256 * shape.columns, 256)[:, None]
    return table.reshape(-1).take(places).T  # (F, T) -> (T, F)


def _two_bytes(file: BinaryIO, shape: Shape, where: str) -> Array:
    return _spread(_filled(file, (shape.rows, shape.columns), "<u2", where), shape, 65535)


def _one_byte(file: BinaryIO, shape: Shape, where: str) -> Array:
    return _spread(_filled(file, (shape.rows, shape.columns), "u1", where), shape, 255)


def _spread(codes: Array, shape: Shape, top: int) -> Array:
    """Codes 0..top as numbers from the least to the largest."""
    values: Array = codes * np.float32(shape.span / top)
    values += np.float32(shape.least)
    return values


DECODERS = {"cm1": _one_byte_by_column, "cm2": _two_bytes, "cm3": _one_byte}


def _text(mark: bytes, file: BinaryIO, where: str) -> Array:
    """``[ 1 2 ]``, ``[`` rows of lines ``]``, or numbers up to the end of the line."""
    text = mark + (b"" if mark.endswith(b"\n") else file.readline(MOST_TEXT))
    opened = text.lstrip().startswith(b"[")
    while opened and b"]" not in text:
        line = file.readline(MOST_TEXT)
        if not line or len(text) > MOST_TEXT:
            raise _ends_early(where)
        text += line
    inner, closed, after = text.partition(b"]") if opened else (text, b"", b"")
    if after.strip():
        raise DataError(f"{where} must end with its bracket, but {after.strip()[:20]!r} follows.")
    lines = inner.strip().removeprefix(b"[").split(b"\n")
    rows = [line.split() for line in lines if line.strip()]
    try:
        array = np.array(rows, np.float32) if rows else np.zeros((0, 0), np.float32)
    except ValueError as error:
        raise DataError(f"{where} must be numbers, as many in each row: {str(error)[:100]}.") from error
    if not closed and not array.size:
        raise _ends_early(where)
    return array if len(lines) > 1 or not array.size else array[0]


# --- out --------------------------------------------------------------------------------------------------------------


def write_array(file: BinaryIO, array: Array, format: Format = "float") -> None:
    """Writes a matrix (T, F) or a vector (F,) at the position of a file.

    Args:
        file: opened in binary mode.
        array: numbers; a vector of int32 stays one where the format is not text.
        format: ``float``, ``double``, ``text``, or for matrices ``cm1``, ``cm2``, ``cm3``.

    Raises:
        DataError: the array has neither one nor two axes, or is a vector or not finite where it is to be compressed.
    """
    if array.ndim not in (1, 2):
        raise DataError(f"Kaldi knows matrices and vectors, but the array has shape {array.shape}.")
    if format in CODES:
        if array.ndim != 2 or not np.isfinite(array).all():
            raise DataError(f"what is compressed must be a matrix of finite numbers, but has shape {array.shape}.")
        file.write(BINARY + CODES[format])
        ENCODERS[format](file, array.astype(np.float32, copy=False))
    elif format == "text":
        _write_text(file, array)
    elif array.dtype == np.int32 and array.ndim == 1:
        pairs = np.empty(len(array), "<i1, <i4")
        pairs["f0"], pairs["f1"] = 4, array
        file.write(BINARY + struct.pack("<bi", 4, len(array)) + pairs.tobytes())
    else:
        letter, dtype = {"float": (b"F", "<f4"), "double": (b"D", "<f8")}[format]
        sizes = b"".join(struct.pack("<bi", 4, size) for size in array.shape)
        file.write(BINARY + letter + b"VM"[array.ndim - 1 : array.ndim] + b" " + sizes)
        file.write(np.ascontiguousarray(array, dtype).tobytes())


CODES: dict[str, bytes] = {"cm1": b"CM ", "cm2": b"CM2 ", "cm3": b"CM3 "}


def _write_text(file: BinaryIO, array: Array) -> None:
    digits = 9 if array.dtype.itemsize <= 4 else 17
    rows = [" ".join(f"{number:.{digits}g}" for number in row) for row in np.atleast_2d(array).tolist()]
    body = "\n  ".join(["", *rows]) if array.ndim == 2 and array.size else "".join(f" {row}" for row in rows if row)
    file.write(f" [{body} ]\n".encode())


def _write_header(file: BinaryIO, array: Array) -> tuple[float, float]:
    """The least number and the span, as float32, and the sizes."""
    least = float(array.min()) if array.size else 0.0
    span = max(float(array.max()) - least, 1e-5 * (1 + abs(least))) if array.size else 0.0
    file.write(struct.pack("<ffii", least, span, *array.shape))
    return least, span


def _coded(array: Array, least: float, span: float, dtype: str) -> Array:
    """Numbers as the nearest of the codes that a type has."""
    top = np.iinfo(dtype).max
    return np.rint((array.astype(np.float64) - least) * (top / span)).clip(0, top).astype(dtype)


def _write_one_byte_by_column(file: BinaryIO, array: Array) -> None:
    least, span = _write_header(file, array)
    if not array.size:
        return
    corners = _coded(np.quantile(array, [0, 0.25, 0.75, 1], axis=0, method="nearest"), least, span, "<u2")
    corners = corners.astype(np.int64)
    for i in (1, 2, 3):
        corners[i] = np.maximum(corners[i], corners[i - 1] + 1)
    for i in (3, 2, 1, 0):
        corners[i] = np.minimum(corners[i], 65535 - (3 - i))
    file.write(corners.T.astype("<u2").tobytes())  # (4, F) -> (F, 4)
    values = least + span / 65535 * corners
    codes = [np.interp(array[:, f], values[:, f], [0, 64, 192, 255]) for f in range(array.shape[1])]
    file.write(np.rint(codes).astype("u1").tobytes())


def _write_spread(file: BinaryIO, array: Array, dtype: str) -> None:
    least, span = _write_header(file, array)
    if array.size:
        file.write(_coded(array, least, span, dtype).tobytes())


def _write_two_bytes(file: BinaryIO, array: Array) -> None:
    _write_spread(file, array, "<u2")


def _write_one_byte(file: BinaryIO, array: Array) -> None:
    _write_spread(file, array, "u1")


ENCODERS = {"cm1": _write_one_byte_by_column, "cm2": _write_two_bytes, "cm3": _write_one_byte}


def as_bytes(array: Array, format: Format = "float") -> bytes:
    """Returns what `write_array` writes."""
    file = io.BytesIO()
    write_array(file, array, format)
    return file.getvalue()
