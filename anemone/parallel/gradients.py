"""Sums of gradients over ranks, in few messages, sent while the backward pass is still under way; and their norm."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

BUCKET_BYTES = 25 * 2**20
"""Size of a message: large enough to use the links well, small enough that the first leaves early."""


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is here, with nothing recorded for the backward pass."""
    part: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part.detach()


def groups_of(tensor: Tensor) -> list[dist.ProcessGroup]:
    """The groups of ranks that have different parts of a tensor; none where each has all of it."""
    if not isinstance(tensor, DTensor):
        return []
    placements = tensor.placements
    assert not any(placement.is_partial() for placement in placements), placements
    # not `is_shard()`: torch says no of the strided shards that FSDP makes of what tensor parallelism has cut
    return [tensor.device_mesh.get_group(axis) for axis, p in enumerate(placements) if not p.is_replicate()]


class BucketedSum:
    """Sums gradients over a group of ranks; from `arm` to `finish`, each bucket leaves as soon as it is full.

    Buckets are filled from the last parameter to the first, about the order in which gradients come, and leave in that
    order on all ranks.

    Args:
        parameters: all whose gradients are summed.
        group: the ranks.
        overlap: whether buckets may leave while the backward pass runs.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], group: dist.ProcessGroup, *, overlap: bool = True) -> None:
        self.group = group
        self.buckets = split([p for p in parameters if p.requires_grad][::-1])
        self._missing: list[int] | None = None
        self._sent: list[tuple[dist.Work, Tensor]] = []
        for number, bucket in enumerate(self.buckets if overlap else ()):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(self._arrived(number))  # type: ignore[no-untyped-call]

    def arm(self) -> None:
        """Says that the next backward pass completes the gradients."""
        self._missing = [len(bucket) for bucket in self.buckets]

    def finish(self) -> None:
        """Sends what has not left, zeros for gradients that are missing, and waits until each gradient is the sum."""
        self._missing = None
        while len(self._sent) < len(self.buckets):
            self._send()
        for bucket, (work, flat) in zip(self.buckets, self._sent, strict=True):
            work.wait()
            _scatter(flat, [local(p.grad) for p in bucket if p.grad is not None])
        self._sent = []

    def _arrived(self, number: int) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            if self._missing is None:
                return
            self._missing[number] -= 1
            while (next_one := len(self._sent)) < len(self.buckets) and self._missing[next_one] == 0:
                self._send()

        return hook

    def _send(self) -> None:
        bucket = self.buckets[len(self._sent)]
        for parameter in bucket:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = _gather([local(p.grad) for p in bucket if p.grad is not None])
        work = dist.all_reduce(flat, group=self.group, async_op=True)
        assert work is not None
        self._sent.append((work, flat))


def split(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Splits parameters, in order, into runs of one number format and of about `BUCKET_BYTES`."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        own = local(parameter).nbytes
        if not buckets or size + own > BUCKET_BYTES or buckets[-1][0].dtype != parameter.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += own
    return buckets


def sum_partial(parameters: Iterable[nn.Parameter]) -> None:
    """Sums gradients of which each rank of an axis has a summand, as norms do under sequence parallelism.

    Args:
        parameters: those without such gradients are left as they are.
    """
    waiting: dict[dist.ProcessGroup, list[DTensor]] = defaultdict(list)
    for parameter in parameters:
        gradient = parameter.grad
        if not isinstance(parameter, DTensor) or not isinstance(gradient, DTensor):
            continue
        mesh, placements = gradient.device_mesh, gradient.placements
        if placements == parameter.placements:
            continue
        pairs = enumerate(zip(placements, parameter.placements, strict=True))
        for axis in (axis for axis, (has, wanted) in pairs if has != wanted):
            assert placements[axis].is_partial() and parameter.placements[axis].is_replicate(), placements
            waiting[mesh.get_group(axis)].append(gradient)
        here = local(gradient)  # the same memory, which is summed below
        parameter.grad = DTensor.from_local(here, mesh, parameter.placements, run_check=False)
    for group, gradients in waiting.items():
        parts = [local(gradient) for gradient in gradients]
        flat = _gather(parts)
        dist.all_reduce(flat, group=group)
        _scatter(flat, parts)


def _gather(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def _scatter(flat: Tensor, parts: list[Tensor]) -> None:
    pieces = torch.split(flat, [part.numel() for part in parts])
    torch._foreach_copy_(parts, [piece.view_as(part) for piece, part in zip(pieces, parts, strict=True)])


def total_norm(gradients: Sequence[Tensor], pipeline: dist.ProcessGroup | None = None) -> Tensor:
    """Computes the 2-norm of all gradients over all ranks, with one message for each group of ranks.

    Args:
        gradients: of this rank's parameters; parts of `DTensor`s are counted once each, copies too.
        pipeline: the ranks that hold other layers.

    Returns:
        A float32 scalar.
    """
    by_groups: dict[tuple[dist.ProcessGroup, ...], list[Tensor]] = defaultdict(list)
    for gradient in gradients:
        by_groups[tuple(groups_of(gradient))].append(local(gradient))
    keys = list(by_groups)
    squares = [torch.stack(torch._foreach_norm(by_groups[key], 2, dtype=torch.float32)).square().sum() for key in keys]
    total = torch.stack(squares)
    for group in dict.fromkeys(itertools.chain.from_iterable(keys)):
        shared_by = torch.tensor([group in key for key in keys], device=total.device)
        total[shared_by] = all_summed(total[shared_by], group)
    norm = total.sum()
    return (norm if pipeline is None else all_summed(norm, pipeline)).sqrt()


def all_summed(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Returns the sum over ranks, in the same memory."""
    dist.all_reduce(tensor, group=group)
    return tensor
