"""Readers that give values and tensors, and never run what they read: YAML, safetensors, and PyTorch's own files.

`open_members` lists and opens what lies in an archive; the readers here take one member each.
"""

import re
import zipfile
from typing import Any, BinaryIO, ClassVar

import torch
import yaml
from torch import Tensor

from anemone.checkpoint.members import Member, Members, clean_name, open_members
from anemone.checkpoint.tensors import read_safetensors
from anemone.errors import ArchiveError

__all__ = ["Member", "Members", "clean_name", "load_tensors", "load_tree", "open_members", "read_safetensors"]

MAX_YAML = 2 << 20  # bytes


# --- YAML -------------------------------------------------------------------------------------------------------------


PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    """Plain values only: no tags that name Python objects, no dates, and no aliases, which can swell without end."""

    yaml_constructors: ClassVar[Any] = {
        tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag in PLAIN or tag is None
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"the alias `*{event.anchor}`", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in PLAIN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


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
