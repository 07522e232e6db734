"""Reads the folders that `anemone.checkpoint.sharded` writes, with any number of ranks, laid out in any way.

Of each file a rank reads the bytes that overlap with the pieces it holds itself; no tensor is gathered.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anemone.checkpoint.agree import agree
from anemone.checkpoint.sharded import COMPLETE, FORMAT, INDEX, Group, Piece, piece, shard_name
from anemone.checkpoint.tensors import DTYPES, open_safetensors, stand_in
from anemone.errors import ArchiveError

ENTRIES = {"files": ("bytes", "sha256"), "tensors": ("dtype", "shape", "pieces")}
"""What each entry of a table must have."""

BLOCK = 1 << 22
"""Bytes hashed at a time."""


class Shards(Mapping[str, Tensor]):
    """The tensors of a folder: each is whole, and read when it is asked for.

    Args:
        path: the folder.

    Raises:
        ArchiveError: the folder is not complete: a file is missing, or of another size than it was written with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, dict[str, Any]] = self._json(COMPLETE, "files")
        """Size and SHA-256 of each file."""
        for name, entry in self.files.items():
            file = path / name
            if Path(name).name != name or not file.is_file():
                raise ArchiveError(f"`{file}` is missing.")
            if file.stat().st_size != entry["bytes"]:
                raise ArchiveError(f"`{file}` must have {entry['bytes']} bytes, but has {file.stat().st_size} instead.")
        self.index: dict[str, dict[str, Any]] = self._json(INDEX, "tensors")
        """Type, shape and pieces of each tensor."""
        self._open: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[str]:
        return iter(self.index)

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor; mapped into memory if it lies in one file, else put together of its pieces."""
        entry = self.index[name]
        if len(entry["pieces"]) == 1:
            return self._stored(name, entry["pieces"][0])
        whole = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
        self._fill(name, Piece(tuple(entry["shape"]), (0,) * whole.ndim, whole))
        return whole

    def stand_in(self, name: str) -> Tensor:
        """A tensor of the same type and shape that takes no memory."""
        entry = self.index[name]
        return stand_in(DTYPES[entry["dtype"]], entry["shape"])

    def read(self, name: str) -> bytes:
        """A further file."""
        return (self.path / name).read_bytes()

    def read_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Fills tensors with the values of the same name; of a `DTensor`, what this rank holds.

        Floating types are converted to the tensor's own.

        Raises:
            ArchiveError: a tensor is not here, or has another shape or kind of number.
        """
        for name, tensor in tensors.items():
            if name not in self.index:
                raise ArchiveError(f"`{name}` is missing in `{self.path}`.")
            own, entry = piece(name, tensor), self.index[name]
            stored = DTYPES[entry["dtype"]]
            if list(own.whole) != entry["shape"]:
                raise ArchiveError(f"`{name}` must be {list(own.whole)}, but is {entry['shape']} in `{self.path}`.")
            if stored != own.tensor.dtype and not (stored.is_floating_point and own.tensor.is_floating_point()):
                raise ArchiveError(f"`{name}` must be {own.tensor.dtype}, but is {stored} in `{self.path}`.")
            self._fill(name, own)

    def check(self, rank: int = 0, world: int = 1) -> None:
        """Compares the sums of files, of every ``world``-th one from ``rank``.

        Raises:
            ArchiveError: a file is not as it was written.
        """
        for name in sorted(self.files)[rank::world]:
            digest = hashlib.sha256()
            with (self.path / name).open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
            if digest.hexdigest() != self.files[name]["sha256"]:
                raise ArchiveError(f"`{self.path / name}` is damaged: its SHA-256 is not that of {COMPLETE}.")

    def stored(self, name: str, offset: list[int]) -> Tensor:
        """The stored piece of a tensor that begins at an offset, in the bytes of its file."""
        return next(self._stored(name, entry) for entry in self.index[name]["pieces"] if entry["offset"] == offset)

    def _fill(self, name: str, own: Piece) -> None:
        """Copies what the stored pieces have of this one."""
        filled = 0
        for entry in self.index[name]["pieces"]:
            begin = [max(a, b) for a, b in zip(own.offset, entry["offset"], strict=True)]
            ends = zip(own.offset, own.tensor.shape, entry["offset"], entry["shape"], strict=True)
            end = [min(a + n, b + m) for a, n, b, m in ends]
            if all(a < b for a, b in zip(begin, end, strict=True)):
                here, there = (_slices(begin, end, offset) for offset in (own.offset, entry["offset"]))
                own.tensor[here].copy_(self._stored(name, entry)[there])
                filled += math.prod(b - a for a, b in zip(begin, end, strict=True))
        if filled != own.tensor.numel():
            raise ArchiveError(f"`{name}` must be whole in `{self.path}`, but {INDEX} leaves some of it out.")

    def _stored(self, name: str, entry: Mapping[str, Any]) -> Tensor:
        """A piece, in the bytes of its file."""
        number = int(entry["file"])
        if number not in self._open:
            self._open[number] = open_safetensors(self.path / shard_name(number))
        stored = self._open[number].get(name)
        expected = DTYPES[self.index[name]["dtype"]]
        if stored is None or list(stored.shape) != list(entry["shape"]) or stored.dtype != expected:
            raise ArchiveError(f"`{self.path / shard_name(number)}` must hold `{name}` as {INDEX} says, but does not.")
        return stored

    def _json(self, name: str, key: str) -> dict[str, Any]:
        """The table under a key of one of the JSON files.

        Raises:
            ArchiveError: it is missing, or lacks some of what its entries must have.
        """
        try:
            table: dict[str, Any] = json.loads((self.path / name).read_text("utf-8"))[key]
            for entry in table.values():
                for word in ENTRIES[key]:
                    entry[word]
            return table
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ArchiveError(f"`{self.path}` is not a complete checkpoint: `{name}` cannot be read.") from error


def open_shards(path: Path, group: Group = None) -> Shards:
    """Opens a folder and compares its sums, each rank those of a share of the files.

    Raises:
        ArchiveError: on all ranks; a file is missing or damaged.
    """
    opened: list[Shards] = []

    def work() -> None:
        opened.append(Shards(path))
        opened[0].check(*(dist.get_rank(group), dist.get_world_size(group)) if group else (0, 1))

    agree(group, work)
    return opened[0]


def refuse_other_formats(path: Path) -> None:
    """Raises if a folder was written by another version, and so cannot be damaged in the way it seems.

    Raises:
        ArchiveError: it has another format.
    """
    marker, older = path / COMPLETE, path / "state.safetensors"
    if not marker.exists() and older.exists():
        raise ArchiveError(f"`{path}` was written by an older version, whose checkpoints this version does not read.")
    try:
        found = json.loads(marker.read_text("utf-8")).get("format")
    except (OSError, ValueError, AttributeError):
        return  # it is damaged, which is another matter
    if found != FORMAT:
        raise ArchiveError(f"`{path}` has format {found}, but this version reads {FORMAT}.")


def _slices(begin: list[int], end: list[int], offset: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(a - o, b - o) for a, b, o in zip(begin, end, offset, strict=True))
