"""What the ranks of a run tell each other; alone, every function is the identity and costs nothing."""

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anemone.data import MicroBatch
from anemone.data.batch import Batch
from anemone.data.token_rows import TokenBatch
from anemone.parallel.mesh import Mesh

Group = dist.ProcessGroup | None
"""Ranks that talk to each other; None: all."""

ALL: tuple[Group, ...] = (None,)

BATCHES: dict[str, Any] = {kind.__name__: kind for kind in (Batch, TokenBatch)}
"""Batches that ranks can lend each other."""

BUCKET = 8 * 1024 * 1024
"""Numbers summed in one message: enough to amortise its latency, few enough to copy."""


def world() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this rank, from 0."""
    return dist.get_rank() if world() > 1 else 0


def is_first() -> bool:
    """Whether this process is rank 0; also true to itself before the ranks are joined, by what the launcher set."""
    if world() > 1:
        return rank() == 0
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def groups(mesh: Mesh | None, *axes: str) -> tuple[Group, ...]:
    """The groups that a sum over some axes of a mesh is made in, one after the other; all ranks without a mesh."""
    if mesh is None:
        return ALL
    return tuple(axis.get_group() for name in axes if (axis := mesh.axis(name)))


def place(mesh: Mesh | None) -> tuple[int, int]:
    """Number of this rank among those that read different data, and how many do; without a mesh all do."""
    return (mesh.data_rank, mesh.data_world) if mesh else (rank(), world())


def own_group() -> dist.ProcessGroup | None:
    """A new group of all ranks that talk over the host's memory; None alone. All ranks must call it."""
    return dist.new_group(backend="gloo") if world() > 1 else None


def sum_together(tensors: Sequence[Tensor], over: Sequence[Group] = ALL) -> None:
    """Replaces each tensor by its sum over ranks, many in one message.

    Args:
        tensors: of this rank; no DTensors.
        over: groups, one after the other: a sum over rows of ranks, then over columns.
    """
    if world() == 1 or not over:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        for group in over:
            dist.all_reduce(flat, group=group)
        start = 0
        for tensor in bucket:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Replaces each tensor by that of rank 0."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def any_rank(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Whether each flag is set on some rank, so that all decide alike."""
    if world() == 1:
        return list(flags)
    votes = torch.tensor(flags, dtype=torch.float32, device=device)
    dist.all_reduce(votes)
    return [vote > 0 for vote in votes.tolist()]


def largest(numbers: Sequence[int], device: torch.device) -> list[int]:
    """The largest of each number over all ranks."""
    if world() == 1:
        return list(numbers)
    kept = torch.tensor(numbers, dtype=torch.int64, device=device)
    dist.all_reduce(kept, op=dist.ReduceOp.MAX)
    return kept.tolist()


def lend(batch: MicroBatch | None, device: torch.device) -> MicroBatch | None:
    """The batch of the first rank that has one, for all that have none; it travels as JSON and tensors."""
    owners = gather_numbers([] if batch is None else [rank()], device)
    if world() == 1 or not owners:
        return batch
    source = min(owners)
    head = b"" if rank() != source else json.dumps(_described(batch)).encode()
    size = torch.tensor(len(head), device=device)
    dist.broadcast(size, source)
    text = torch.empty(int(size), dtype=torch.uint8, device=device)
    if head:
        text.copy_(torch.frombuffer(bytearray(head), dtype=torch.uint8))
    dist.broadcast(text, source)
    kind, fields = json.loads(text.cpu().numpy().tobytes())
    values: list[Any] = []
    for number, field in enumerate(fields):
        if isinstance(field, list):
            dtype, shape = field
            value = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
            if head:
                value.copy_(tuple(batch)[number])  # type: ignore[arg-type]  # batches are named tuples
            dist.broadcast(value, source)
            values.append(value)
        else:
            values.append(field)
    return BATCHES[kind](*values) if batch is None else batch


def _described(batch: Any) -> tuple[str, list[Any]]:
    """The kind of a batch and its fields: format and shape of a tensor, or the value itself."""
    fields = [
        [str(field.dtype).removeprefix("torch."), list(field.shape)] if isinstance(field, Tensor) else field
        for field in batch
    ]
    return type(batch).__name__, fields


def gather_numbers(numbers: Sequence[int], device: torch.device) -> list[int]:
    """The numbers of all ranks, one rank after the other; ranks may have different counts."""
    if world() == 1:
        return list(numbers)
    own = torch.tensor([len(numbers), *numbers], dtype=torch.int64, device=device)
    sizes = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(world())]
    dist.all_gather(sizes, own[:1])
    widest = 1 + max(int(size) for size in sizes)
    rows = [torch.empty(widest, dtype=torch.int64, device=device) for _ in sizes]
    dist.all_gather(rows, torch.cat([own, own.new_zeros(widest - len(own))]))
    return [number for row in rows for number in row[1 : 1 + int(row[0])].tolist()]


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Splits into runs of one format, each of about BUCKET numbers."""
    buckets: list[list[Tensor]] = []
    size = 0
    for tensor in tensors:
        if not buckets or size + tensor.numel() > BUCKET or buckets[-1][0].dtype != tensor.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.numel()
    return buckets
