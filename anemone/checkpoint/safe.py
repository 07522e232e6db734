"""Readers that give values and tensors, and never run what they read: YAML, safetensors, and PyTorch's own files.

`open_members` lists and opens what lies in an archive; the readers here take one member each.
"""

import json
import math
import re
import zipfile
from typing import Any, BinaryIO

import torch
import yaml
from torch import Tensor

from anemone.checkpoint.members import Member, Members, clean_name, open_members
from anemone.errors import ArchiveError

__all__ = ["Member", "Members", "clean_name", "load_tensors", "load_tree", "open_members", "read_safetensors"]

MAX_YAML = 2 << 20  # bytes
MAX_HEADER = 32 << 20  # bytes of a safetensors header
MAX_DIMS = 16

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


# --- YAML -------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Values only: no tags that name Python objects, and no aliases, which can swell without end."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"the alias `*{event.anchor}`", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def load_tree(data: bytes, where: str) -> dict[str, Any]:
    """Reads a YAML mapping of plain values.

    Args:
        data: UTF-8 text.
        where: what it is, for messages.

    Raises:
        ArchiveError: not UTF-8, not YAML, no mapping, too large, or with tags or aliases.
    """
    if len(data) > MAX_YAML:
        raise ArchiveError(f"`{where}` must have at most {MAX_YAML} bytes, but has {len(data)} instead.")
    try:
        tree = yaml.load(data.decode("utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise ArchiveError(f"`{where}` must be UTF-8 text: {error}.") from error
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ArchiveError(f"`{where}` is refused as YAML{line}: {error.problem}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ArchiveError(f"`{where}` is refused as YAML: {error}.") from error
    if not isinstance(tree, dict):
        raise ArchiveError(f"`{where}` must be a mapping of settings, but is a {type(tree).__name__} instead.")
    return {str(key): value for key, value in tree.items()}


# --- safetensors ------------------------------------------------------------------------------------------------------


def read_safetensors(data: memoryview, where: str) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file, in place: they share the memory of ``data``.

    The file is 8 bytes that give the length of a JSON header, the header, and the tensors' bytes. These must follow
    one another without gap or overlap and fill the file, as the format asks.

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
        flat = torch.frombuffer(body, dtype=dtype, count=count, offset=begin) if count else torch.empty(0, dtype=dtype)
        tensors[name] = flat.view(shape)
        at = end
    if at != len(body):
        raise ArchiveError(f"`{where}` must end after its last tensor, at byte {at}, but has {len(body)} instead.")
    return tensors


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
    if not isinstance(shape, list) or not all(map(_whole, shape)) or len(shape) > MAX_DIMS:
        raise ArchiveError(f"`{where}` must have a shape of whole numbers, but has {str(shape)[:99]} instead.")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ArchiveError(
            f"`{where}` must have two data_offsets in order, but has {entry['data_offsets']!r} instead."[:500]
        )
    return DTYPES[dtype], shape, (offsets[0], offsets[1])


# --- PyTorch's own files ----------------------------------------------------------------------------------------------


def load_tensors(file: BinaryIO, where: str) -> dict[str, Tensor]:
    """Reads a flat state dict that `torch.save` wrote; of the pickle in it, only what makes tensors is understood.

    Args:
        file: a seekable file; usually `Members.open`.
        where: what it is, for messages.

    Raises:
        ArchiveError: broken, swelling, naming anything but tensors, or no flat table of tensors.
    """
    _check_zip(file, where)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler meets bytes that a stranger chose: it may fail in any way
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"its pickle names `{found[1]}`, which is no tensor" if found else str(error).splitlines()[0][:200]
        raise ArchiveError(f"`{where}` is refused: {reason}. Nothing of it was run.") from error
    if not isinstance(state, dict):
        raise ArchiveError(f"`{where}` must hold a table of tensors, but holds a {type(state).__name__} instead.")
    for name, tensor in state.items():
        _check_tensor(name, tensor, where)
    return dict(state)


def _check_zip(file: BinaryIO, where: str) -> None:
    """Refuses zips that unpack to more than their own size, without unpacking."""
    size = file.seek(0, 2)
    file.seek(0)
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ArchiveError(f"`{where}` must be a zip as torch.save writes since 1.6, and whole: {error}.") from error
    packed = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed:
        raise ArchiveError(
            f"`{where}` is refused: `{packed.filename[:99]}` in it is compressed, as torch.save never does."
        )
    if sum(entry.file_size for entry in entries) > size:
        raise ArchiveError(f"`{where}` is refused: it unpacks to more than its own {size} bytes, like a bomb.")
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise ArchiveError(f"`{where}` is refused: a record stands in it twice.")
    file.seek(0)


def _check_tensor(name: Any, tensor: Any, where: str) -> None:
    """Refuses what is no plain tensor with bytes of its own."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise ArchiveError(f"`{where}` must hold tensors by name, but `{str(name)[:99]}` is a {type(tensor).__name__}.")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ArchiveError(
            f"`{where}: {name}` must be a dense tensor with data, but is {tensor.layout} on {tensor.device}."
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ArchiveError(f"`{where}: {name}` is refused: its shape {list(tensor.shape)} repeats bytes, like a bomb.")
