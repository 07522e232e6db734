"""The safetensors format, read in place and written in a stream.

A file is 8 bytes that give the length of a JSON header, the header, and the tensors' bytes. The header maps each name
to ``{"dtype", "shape", "data_offsets": [begin, end]}``, and may hold free text under ``__metadata__``. Reading maps the
bytes, copies none, and takes them from the middle of a tar as well; writing holds one tensor in memory at a time, so
both work for models larger than memory. Files go to and fro between this module and the `safetensors` library.
"""

import json
import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from anemone.errors import ArchiveError

MAX_HEADER = 32 << 20  # bytes of a safetensors header
MAX_DIMS = 16
MAX_NUMEL = 1 << 48

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file, mapped into memory; what is written to them stays in this process.

    Raises:
        ArchiveError: the file cannot be read; see `read_safetensors`.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise ArchiveError(f"`{path}` cannot be read: {error}.") from error
    return read_safetensors(memoryview(data), str(path))


def read_safetensors(data: memoryview, where: str) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file, in place: they share the memory of ``data``.

    The tensors' bytes must follow one another without gap or overlap and fill the file, as the format asks.

    Args:
        data: the whole file, writable; usually `Members.map`.
        where: what it is, for messages.

    Raises:
        ArchiveError: the header cannot be read, or does not fit the bytes after it.
    """
    header, body = _header(data, where)
    tensors, at = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(item[1])):
        dtype, shape, (begin, end) = _entry(entry, f"{where}: {name}")
        count = math.prod(shape)
        if begin != at:
            raise ArchiveError(
                f"`{where}: {name}` must begin at byte {at}, but begins at {begin}: tensors may not share."
            )
        if count * dtype.itemsize != end - begin:
            what = f"{dtype} {list(shape)} needs {count * dtype.itemsize} bytes"
            raise ArchiveError(f"`{where}: {name}` does not fit its bytes: {what}, but has {end - begin}.")
        if end > len(body):
            raise ArchiveError(f"`{where}` is cut short: `{name}` ends at byte {end} of {len(body)}.")
        tensors[name] = _flat(body[begin:end], dtype).view(shape)
        at = end
    if at != len(body):
        raise ArchiveError(f"`{where}` must end after its last tensor, at byte {at}, but has {len(body)} instead.")
    return tensors


def _flat(data: memoryview, dtype: torch.dtype) -> Tensor:
    """The values in ``data``; copied only if they are not aligned to their type."""
    if not data:
        return torch.empty(0, dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype)
    return flat if flat.data_ptr() % dtype.itemsize == 0 else torch.frombuffer(bytearray(data), dtype=dtype)


def _header(data: memoryview, where: str) -> tuple[dict[str, Any], memoryview]:
    """The entries of the header, and the bytes after it."""
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise ArchiveError(f"`{where}` must have a header of at most {MAX_HEADER} bytes, but has {length} instead.")
    if len(data) < 8 + length:
        raise ArchiveError(f"`{where}` is cut short: its header needs {8 + length} bytes of {len(data)}.")
    try:
        header = json.loads(bytes(data[8 : 8 + length]).decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"`{where}` has a header that is refused: {error}.") from error
    if not isinstance(header, dict):
        raise ArchiveError(
            f"`{where}` must have a header that is a mapping, but it is {type(header).__name__} instead."
        )
    return {name: entry for name, entry in header.items() if name != "__metadata__"}, data[8 + length :]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys stand once."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"`{next(n for n in names if names.count(n) > 1)}` stands in it twice")
    return table


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _offsets(entry: Any) -> tuple[int, ...]:
    """Where an entry's bytes lie; first of all if it does not say, so that `_entry` complains."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return tuple(offsets) if isinstance(offsets, list) and all(map(_whole, offsets)) else ()


def _entry(entry: Any, where: str) -> tuple[torch.dtype, list[int], tuple[int, int]]:
    """Type, shape and stretch of bytes of one tensor."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ArchiveError(f"`{where}` must have dtype, shape and data_offsets, but has {entry!r} instead."[:500])
    dtype, shape, offsets = entry["dtype"], entry["shape"], _offsets(entry)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ArchiveError(f"`{where}` must have a dtype of {sorted(DTYPES)}, but has {str(dtype)[:99]!r} instead.")
    whole = isinstance(shape, list) and all(map(_whole, shape)) and len(shape) <= MAX_DIMS
    if not whole or math.prod(max(1, size) for size in shape) > MAX_NUMEL:
        raise ArchiveError(f"`{where}` must have a shape of whole numbers, but has {str(shape)[:99]} instead.")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ArchiveError(
            f"`{where}` must have two data_offsets in order, but has {entry['data_offsets']!r} instead."[:500]
        )
    return DTYPES[dtype], shape, (offsets[0], offsets[1])


def safetensors_header(tensors: Mapping[str, Tensor], order: Sequence[str] = ()) -> tuple[bytes, list[str]]:
    """Returns the length and header of a file of these tensors, and the order of their bytes.

    Wide types come first and the header is padded to 8 bytes, so that every tensor is aligned to its type.

    Args:
        tensors: by name.
        order: another order of all names, where all are of one type.

    Raises:
        ArchiveError: a tensor is sparse, without data, or of a type the format lacks.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    for name, tensor in tensors.items():
        if tensor.dtype not in names or tensor.layout != torch.strided or tensor.is_meta:
            what = f"{tensor.dtype} ({tensor.layout}) on {tensor.device}"
            raise ArchiveError(f"`{name}` must be a dense tensor of a plain type with data, but is {what} instead.")
    order = list(order) or sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in order:
        tensor = tensors[name]
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def safetensors_size(tensors: Mapping[str, Tensor]) -> int:
    """Returns how many bytes `write_safetensors` will write."""
    return len(safetensors_header(tensors)[0]) + sum(t.numel() * t.element_size() for t in tensors.values())


def stand_in(dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """A tensor for `safetensors_header` that takes no memory."""
    return torch.zeros((), dtype=dtype).expand(tuple(shape))


def write_safetensors(
    file: BinaryIO, tensors: Mapping[str, Tensor], read: Callable[[str], Tensor] | None = None
) -> None:
    """Writes tensors, from any device and with any strides; those that share memory are written once each.

    Args:
        file: where to.
        tensors: by name.
        read: gives a tensor when its turn comes, where ``tensors`` has but stand-ins of the same types and shapes.

    Raises:
        ArchiveError: a tensor is sparse, without data, or of a type the format lacks.
    """
    header, order = safetensors_header(tensors)
    file.write(header)
    for name in order:
        flat = (read(name) if read else tensors[name]).detach().cpu().contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data)


def refuse_names(where: str, *, missing: Sequence[str], unknown: Sequence[str], asker: str) -> None:
    """Raises ArchiveError if tensors are missing, or some are there that nothing asks for.

    Args:
        where: they are stored.
        missing: names.
        unknown: names.
        asker: what asks for tensors, with its verb, for the message.
    """
    for wrong, what in ((missing, "lacks"), (unknown, f"has tensors that {asker} not ask for:")):
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ArchiveError(f"{where} {what} {', '.join(f'`{name}`' for name in wrong[:5])}{more}.")
