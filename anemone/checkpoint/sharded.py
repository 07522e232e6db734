"""Tensors of many ranks in one folder of safetensors, which any other number of ranks can read.

    shard_00000.safetensors    what rank 0 wrote: of each tensor, one piece at most, under the tensor's name
    shard_00001.safetensors    ...
    index.json                 each tensor's type, shape and pieces: file, offset, shape
    complete.json              size and SHA-256 of each other file; it comes last, so where it stands all is there

A `DTensor` is written in the pieces its ranks hold, without being gathered; a piece that several hold is written by one
of them, each rank as much as any other; `anemone.checkpoint.shards` reads. Nothing is pickled, on disk or on the way.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from anemone.checkpoint.agree import agree
from anemone.checkpoint.atomic import atomic_folder, fsync
from anemone.checkpoint.tensors import DTYPES, write_safetensors
from anemone.errors import ArchiveError

FORMAT = 1
"""Of the folder; another number is refused."""

INDEX, COMPLETE = "index.json", "complete.json"
NAMES = {dtype: name for name, dtype in DTYPES.items()}

Group = dist.ProcessGroup | None


class Piece(NamedTuple):
    """A block of a tensor."""

    whole: tuple[int, ...]
    """Shape of the whole tensor."""

    offset: tuple[int, ...]
    """Where the block begins in it."""

    tensor: Tensor
    """The block; shares memory with what it is a piece of."""


def piece(name: str, tensor: Tensor) -> Piece:
    """What this rank holds of a tensor: all of it, or the local block of a `DTensor`.

    Raises:
        ArchiveError: a `DTensor` is a sum that was never summed up, or lies in several blocks.
    """
    tensor = tensor.detach()
    whole = tuple(tensor.shape)
    if not isinstance(tensor, DTensor):
        return Piece(whole, (0,) * len(whole), tensor)
    if any(placement.is_partial() for placement in tensor.placements):
        raise ArchiveError(f"`{name}` must be summed up before it is saved or loaded, but is {tensor.placements}.")
    local = tensor.to_local()
    chunks = tensor.__create_chunk_list__() if local.numel() else []  # type: ignore[no-untyped-call]
    if not chunks:
        return Piece(whole, (0,) * len(whole), local)
    if len(chunks) != 1 or tuple(chunks[0].sizes) != tuple(local.shape):
        raise ArchiveError(f"`{name}` must lie in one block on each rank, but is {tensor.placements}.")
    return Piece(whole, tuple(chunks[0].offsets), local)


# --- writing ----------------------------------------------------------------------------------------------------------


class ShardWriter:
    """Writes folders of shards, one after the other.

    Args:
        group: a gloo group of all ranks, which nothing else uses while a folder is written; None for one process.

    Example:
        >>> import tempfile, torch
        >>> folder, writer = Path(tempfile.mkdtemp()) / "step_1", ShardWriter()
        >>> writer.write(folder, writer.share({"weight": torch.ones(2, 3)}))
        >>> sorted(file.name for file in folder.iterdir())
        ['complete.json', 'index.json', 'shard_00000.safetensors']
    """

    def __init__(self, group: Group = None) -> None:
        self.group = group
        self._held: list[Any] = []
        self._layout: list[list[Any]] = []
        self._mine: list[str] = []
        self._index: dict[str, Any] = {}

    def share(self, tensors: Mapping[str, Tensor]) -> dict[str, Piece]:
        """The pieces that this rank is to write; the first rank shares them out when their layout is new.

        Raises:
            ArchiveError: on all ranks; the pieces of a tensor do not make up the whole.
        """

        def held() -> list[Any] | None:
            pieces.update({name: piece(name, tensor) for name, tensor in tensors.items()})
            now = [
                [name, NAMES[p.tensor.dtype], p.whole, p.offset, p.tensor.shape]
                for name, p in pieces.items()
                if p.tensor.numel() or not math.prod(p.whole)
            ]
            before, self._held = self._held, now
            return None if now == before else now

        def decide(layouts: list[Any]) -> list[list[str] | None]:
            if not any(layouts):
                return [None] * len(layouts)
            before = self._layout or [[]] * len(layouts)
            self._layout = [new or old for new, old in zip(layouts, before, strict=True)]
            shares, self._index = _shared_out(self._layout)
            return list(shares)

        pieces: dict[str, Piece] = {}
        mine = agree(self.group, held, decide)
        self._mine = self._mine if mine is None else mine
        return {name: pieces[name] for name in self._mine}

    def write(self, path: Path, pieces: Mapping[str, Piece], files: Mapping[str, bytes] | None = None) -> None:
        """Writes a folder that is there wholly or not at all; when this returns on any rank, it is on disk.

        Args:
            path: the folder; what was there is replaced.
            pieces: what `share` gave, or copies of it.
            files: further files by name; those of the first rank are written.

        Raises:
            ArchiveError: on all ranks, if one could not write; what was at ``path`` is as it was.
        """
        draft = path.with_name(f"{path.name}.tmp")
        rank = dist.get_rank(self.group) if self.group else 0

        def begin(results: list[Any]) -> list[Any]:
            stack.enter_context(atomic_folder(path))
            return results

        def write() -> tuple[str, dict[str, Any]] | None:
            tensors = {name: p.tensor for name, p in pieces.items()}
            return (shard_name(rank), write_shard(draft / shard_name(rank), tensors)) if tensors else None

        def finish(written: list[Any]) -> list[Any]:
            seal(draft, index=self._index, sums=dict(shard for shard in written if shard), files=files)
            return [None] * len(written)

        with ExitStack() as stack:
            agree(self.group, decide=begin)
            agree(self.group, write, finish)
            agree(self.group, stack.close)  # on the first rank, this renames


def _shared_out(layouts: list[list[Any]]) -> tuple[list[list[str]], dict[str, Any]]:
    """Which names each rank is to write, and the index; pieces that few hold are shared out first, large ones first.

    Args:
        layouts: of each rank, [name, type, whole shape, offset, shape] of the pieces it holds.
    """
    tensors: dict[str, tuple[str, list[int]]] = {}
    holders: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    shapes: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for rank, layout in enumerate(layouts):
        for name, dtype, whole, offset, shape in layout:
            key, kind = (name, tuple(offset)), (dtype, list(whole))
            if tensors.setdefault(name, kind) != kind or shapes.setdefault(key, list(shape)) != list(shape):
                raise ArchiveError(f"`{name}` must be the same tensor on all ranks, but rank {rank} holds another.")
            holders.setdefault(key, []).append(rank)
    index: dict[str, Any] = {
        name: {"dtype": dtype, "shape": whole, "pieces": []} for name, (dtype, whole) in tensors.items()
    }
    sizes = {key: math.prod(shapes[key]) * DTYPES[tensors[key[0]][0]].itemsize for key in holders}
    load, shares = [0] * len(layouts), [list[str]() for _ in layouts]
    for name, offset in sorted(holders, key=lambda key: (len(holders[key]), -sizes[key], key)):
        rank = min(holders[name, offset], key=load.__getitem__)
        load[rank] += sizes[name, offset]
        shares[rank].append(name)
        index[name]["pieces"].append({"file": rank, "offset": list(offset), "shape": shapes[name, offset]})
    for name, entry in index.items():
        held = sum(math.prod(p["shape"]) for p in entry["pieces"])
        if held != math.prod(entry["shape"]):
            raise ArchiveError(
                f"`{name}` must be held by the ranks wholly and without overlap, but of its "
                f"{math.prod(entry['shape'])} values {held} are held."
            )
    return shares, index


def seal(
    draft: Path, *, index: Mapping[str, Any], sums: Mapping[str, Any], files: Mapping[str, bytes] | None = None
) -> None:
    """Writes index, further files and at last the marker.

    Args:
        draft: the folder.
        index: entry of each tensor.
        sums: entry of each shard, as `write_shard` gave it.
        files: by name.
    """
    own = {INDEX: _json({"tensors": index}), **(files or {})}
    written = {name: _write_file(draft / name, data) for name, data in own.items()}
    _write_file(draft / COMPLETE, _json({"format": FORMAT, "files": {**sums, **written}}))


def shard_name(rank: int) -> str:
    """File of a rank."""
    return f"shard_{rank:05d}.safetensors"


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        """Writes and hashes."""
        self.hash.update(data)
        self.bytes += len(data)
        return self.file.write(data)


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Writes a file of tensors to disk; returns its size and sum."""
    return _write(path, lambda file: write_safetensors(cast(BinaryIO, file), tensors))


def _write_file(path: Path, data: bytes) -> dict[str, Any]:
    return _write(path, lambda file: file.write(data))


def _write(path: Path, fill: Callable[[_Hashed], object]) -> dict[str, Any]:
    """Writes a file to disk; returns its size and sum."""
    with path.open("wb") as file:
        hashed = _Hashed(file)
        fill(hashed)
    fsync(path)
    return {"bytes": hashed.bytes, "sha256": hashed.hash.hexdigest()}


def _json(tree: Any) -> bytes:
    return json.dumps(tree, indent=None, separators=(",", ":")).encode("utf-8")
