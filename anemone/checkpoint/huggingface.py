"""Models in the format of Hugging Face: a folder of ``config.json`` and safetensors, read and written in any layout.

Reading, each rank takes from the files the part of each tensor that it holds, and no more. Writing, one tensor at a
time is put together and leaves again, so that no host ever holds a whole model. Settings and names are translated by
the table of the family, and what has no counterpart is refused by name.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from anemone.checkpoint.agree import agree
from anemone.checkpoint.atomic import atomic_folder, fsync
from anemone.checkpoint.names.llama import RECOMPUTED, Source, our_settings, sources, their_settings
from anemone.checkpoint.sharded import Group, Piece, piece
from anemone.checkpoint.snapshot import CONFIG, INDEX, WEIGHTS, Snapshot, read_json
from anemone.checkpoint.tensors import refuse_names, safetensors_header, stand_in
from anemone.config import Tree
from anemone.errors import ArchiveError

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


# --- reading ----------------------------------------------------------------------------------------------------------


class HuggingFace(Mapping[str, Tensor]):
    """A model in a folder, its tensors by our names: each is whole, and read when it is asked for.

    Args:
        folder: with ``config.json`` and safetensors, in one file or in many with an index.

    Raises:
        ArchiveError: something is missing or broken, or has no counterpart here; names it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.model, self.vocab_size = our_settings(read_json(folder / CONFIG))
        except ArchiveError as error:
            raise ArchiveError(f"`{folder}`: {error}") from error
        self.sources: dict[str, Source] = sources(self.model, self.vocab_size)
        """Each tensor of ours, and which of theirs it comes from."""
        self._files = Snapshot(folder)
        self._check_names()

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor; mapped into memory unless it is put together of many."""
        source = self.sources[name]
        stored = [self._stored(name, theirs, source) for theirs in source.names]
        return torch.stack(stored) if source.stacked else stored[0]

    def stand_in(self, name: str) -> Tensor:
        """A tensor of the same type and shape that takes no memory."""
        source = self.sources[name]
        return stand_in(self._stored(name, source.names[0], source).dtype, source.shape)

    def read_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Fills tensors with the values of the same name; of a `DTensor`, what this rank holds.

        Types are converted to the tensor's own. Ranks need not hold the same tensors; nothing is sent between them.

        Args:
            tensors: the parameters of a network or of a part of it, by their names in the whole.

        Raises:
            ArchiveError: a tensor is not here, or has another shape; names it.
        """
        for name, tensor in tensors.items():
            if name not in self.sources:
                raise ArchiveError(f"`{name}` is no tensor of the model in `{self.folder}`.")
            own, source = piece(name, tensor), self.sources[name]
            if own.whole != source.shape:
                raise ArchiveError(
                    f"`{name}` must be {list(own.whole)}, but is {list(source.shape)} by `{self.folder / CONFIG}`."
                )
            if own.tensor.numel():
                self._fill(name, own, source)

    @torch.no_grad()
    def _fill(self, name: str, own: Piece, source: Source) -> None:
        part = tuple(slice(at, at + size) for at, size in zip(own.offset, own.tensor.shape, strict=True))
        if not source.stacked:
            own.tensor.copy_(self._stored(name, source.names[0], source)[part])
            return
        for row, theirs in zip(own.tensor, source.names[part[0]], strict=True):
            row.copy_(self._stored(name, theirs, source)[part[1:]])

    def _stored(self, name: str, theirs: str, source: Source) -> Tensor:
        """A tensor of theirs, in the bytes of its file."""
        stored = self._files[theirs]
        shape = source.shape[1:] if source.stacked else source.shape
        if tuple(stored.shape) != shape:
            raise ArchiveError(
                f"`{theirs}` must be {list(shape)} to become `{name}`, but is {list(stored.shape)} instead, "
                f"in `{self._files.where(theirs)}`."
            )
        if stored.dtype not in FLOATS:
            raise ArchiveError(
                f"`{theirs}` must be of {FLOATS}, but is {stored.dtype}, in `{self._files.where(theirs)}`."
            )
        return stored

    def _check_names(self) -> None:
        needed = {theirs for source in self.sources.values() for theirs in source.names}
        spare = {"lm_head.weight"} if self.model["tie_embeddings"] else set()  # some writers repeat tied weights
        unknown = [name for name in self._files if name not in needed | spare and not name.endswith(RECOMPUTED)]
        missing = sorted(needed - set(self._files))
        refuse_names(f"`{self.folder}`", missing=missing, unknown=unknown, asker=f"`{CONFIG}` does")


def read_huggingface(folder: str | Path) -> HuggingFace:
    """Opens a model in Hugging Face's format; no tensor is read yet.

    Args:
        folder: such as a snapshot of a repository of theirs: Llama, Mistral or Mixtral.

    Raises:
        ArchiveError: something is missing or broken, or has no counterpart here; names it.
    """
    return HuggingFace(Path(folder))


# --- writing ----------------------------------------------------------------------------------------------------------


def write_huggingface(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    model: Tree,
    vocab_size: int,
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_bytes: int = 5 * 10**9,
    files: Mapping[str, bytes] | None = None,
    group: Group = None,
    read: Callable[[str], Tensor] | None = None,
) -> None:
    """Writes a model in Hugging Face's format, in a folder that is there wholly or not at all.

    All ranks call it. A tensor that is spread over ranks is put together on these, written by one of them and
    forgotten, before the next; ranks of different stages of a pipeline write different files. The folder must be on a
    file system that all share.

    Args:
        path: the folder; a model that was there is replaced.
        tensors: what this rank holds of the network's parameters, whole or as `DTensor`, by their names in the whole.
        model: settings, with every number written out, as `LlamaShape.tree` gives them.
        vocab_size: number of tokens.
        dtype: of what is written.
        max_shard_bytes: of a file; a tensor that is larger has a file to itself.
        files: further files, by name, such as a tokenizer's; those of the first rank are written.
        group: a gloo group of all ranks; None for one process.
        read: gives a tensor by name when its turn comes, where ``tensors`` are stand-ins of types and shapes.

    Raises:
        ArchiveError: on all ranks: a tensor is missing, unknown or of a wrong shape, or a rank could not write.
    """
    path = Path(path)
    draft = path.with_name(f"{path.name}.tmp")
    rank = dist.get_rank(group) if group else 0
    wanted = {name: source for name, source in sources(model, vocab_size).items() if not _tied(name, model)}
    held = {name: tensor.detach() for name, tensor in tensors.items() if not _tied(name, model)}
    read = read or held.__getitem__

    def decide(layouts: list[Any]) -> list[Any]:
        _check_place(path)
        plan = _plan(layouts, wanted, max_shard_bytes // dtype.itemsize)
        stack.enter_context(atomic_folder(path))
        config = their_settings(model, vocab_size, dtype=str(dtype).removeprefix("torch."))
        own = {CONFIG: _text(config), **_index_file(plan, wanted, dtype), **(files or {})}
        for name, data in own.items():
            (draft / name).write_bytes(data)
        return [plan] * len(layouts)

    with ExitStack() as stack:
        shapes = [[name, list(tensor.shape)] for name, tensor in held.items()]
        plan = agree(group, lambda: shapes, decide)
        faults: list[OSError] = []
        for number, (writer, names) in enumerate(plan):
            file = draft / _file_name(number, len(plan))
            own = {name: wanted[name] for name in names if name in held}
            _write(file if rank == writer else None, own, read, dtype, faults)
        agree(group, lambda: _raise(faults))
        agree(group, stack.close)  # on the first rank, this renames


def _tied(name: str, model: Tree) -> bool:
    return bool(model["tie_embeddings"]) and name == "head.weight"


def _raise(faults: list[OSError]) -> None:
    for fault in faults:
        raise fault


def _check_place(path: Path) -> None:
    if path.exists() and not (path.is_dir() and ((path / CONFIG).exists() or not any(path.iterdir()))):
        raise ArchiveError(f"`{path}` must be a new folder or a model, but is something else, which is left alone.")


def _plan(layouts: list[list[Any]], wanted: Mapping[str, Source], most: int) -> list[list[Any]]:
    """Who writes what: for each file the rank and the names of our tensors, which all lie on the same ranks."""
    holders: dict[str, list[int]] = {}
    for rank, layout in enumerate(layouts):
        for name, shape in layout:
            if name not in wanted:
                raise ArchiveError(f"`{name}` is no tensor of the model that is to be written.")
            if tuple(shape) != wanted[name].shape:
                raise ArchiveError(f"`{name}` must be {list(wanted[name].shape)}, but is {shape} instead.")
            holders.setdefault(name, []).append(rank)
    missing = [name for name in wanted if name not in holders]
    if missing:
        raise ArchiveError(f"`{missing[0]}` is missing: no rank holds it.")
    plan: list[list[Any]] = []
    room, before = 0, None
    for name, source in wanted.items():
        size = math.prod(source.shape)
        if size > room or holders[name] != before:
            writers = holders[name]
            plan.append([writers[len(plan) % len(writers)], []])
            room, before = most, writers
        plan[-1][1].append(name)
        room -= size
    return plan


def _file_name(number: int, count: int) -> str:
    return WEIGHTS if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _index_file(plan: list[list[Any]], wanted: Mapping[str, Source], dtype: torch.dtype) -> dict[str, bytes]:
    """The index, where there are many files."""
    if len(plan) == 1:
        return {}
    where = {
        theirs: _file_name(number, len(plan))
        for number, (_, names) in enumerate(plan)
        for name in names
        for theirs in wanted[name].names
    }
    size = sum(math.prod(source.shape) for source in wanted.values()) * dtype.itemsize
    return {INDEX: _text({"metadata": {"total_size": size}, "weight_map": where})}


def _text(tree: Tree) -> bytes:
    return (json.dumps(tree, indent=2, sort_keys=True) + "\n").encode("utf-8")


def _write(
    path: Path | None,
    wanted: Mapping[str, Source],
    read: Callable[[str], Tensor],
    dtype: torch.dtype,
    faults: list[OSError],
) -> None:
    """Takes part in one file: puts its tensors together, and writes them where ``path`` is given.

    A rank that cannot write goes on gathering, as the others wait for it; its fault is kept for later.
    """
    with ExitStack() as stack:
        file: BinaryIO | None = None
        try:
            if path is not None:
                file = stack.enter_context(path.open("wb"))
                file.write(_header(wanted, dtype))
        except OSError as error:
            faults.append(error)
        for name in wanted:
            whole = read(name).to(dtype)
            whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
            try:
                if file is not None and not faults:
                    file.write(whole.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            except OSError as error:
                faults.append(error)
    if path is not None and not faults:
        fsync(path)


def _header(wanted: Mapping[str, Source], dtype: torch.dtype) -> bytes:
    """The header of a file, of stand-ins without memory; a stack is written as its slices, one after the other."""
    stand_ins = {
        theirs: stand_in(dtype, source.shape[1:] if source.stacked else source.shape)
        for source in wanted.values()
        for theirs in source.names
    }
    return safetensors_header(stand_ins, list(stand_ins))[0]
