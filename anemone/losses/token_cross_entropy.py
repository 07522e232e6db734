"""Cross entropy of the next token, over vocabularies so large that their scores fill the memory.

The scores are read a few rows at a time, in float32 whatever their type, and the gradient takes their place: neither
probabilities nor gradients of the whole batch are ever held beside them. A vocabulary that is spread over processes
stays so: per token, its largest score, its sum of exponentials and the score of the right token are shared.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from anemone.losses import LossSum
from anemone.types import IGNORED

BLOCKS = {"cpu": 1 << 17}  # scores that are in work at a time, by device: on a CPU they stay in its cache
BLOCK = 1 << 26  # elsewhere

TokenCrossEntropy = Callable[[Tensor, Tensor], LossSum]


@dataclass(frozen=True, kw_only=True)
class TokenCrossEntropyConfig:
    """Minus the log-probability of the next token."""

    def build(self) -> TokenCrossEntropy:
        """Returns `token_cross_entropy`."""
        return token_cross_entropy


def token_cross_entropy(logits: Tensor, targets: Tensor) -> LossSum:
    """Computes ``-log softmax(logits)[target]`` of each position that counts, summed, and their number.

    **The backward spends the scores**: it writes their gradient over them. They must come from an operation that does
    not keep its output, as linear maps do not; of another, PyTorch complains.

    Example:
        >>> logits = torch.zeros(1, 3, 8)
        >>> total, count = token_cross_entropy(logits, torch.tensor([[1, 2, IGNORED]]))
        >>> round(total.exp().item()), count.item()
        (64, 2.0)

    Args:
        logits: (B, N, V), of any float; a `DTensor` if the vocabulary is spread over processes.
        targets: (B, N), token numbers, or -100 where a position does not count.
    """
    part = _part(logits)
    flat = part.logits.flatten(0, -2)  # (B, N, V) -> (B * N, V)
    total: Tensor = _CrossEntropy.apply(flat, targets.flatten(), part.first, part.group)  # type: ignore[no-untyped-call]
    return LossSum(total, (targets != IGNORED).sum(dtype=torch.float32))


class _Part(NamedTuple):
    """The scores that are here, the number of the first token among them, and who has the others."""

    logits: Tensor
    first: int
    group: dist.ProcessGroup | None


def _part(logits: Tensor) -> _Part:
    if not dist.is_available() or type(logits) is Tensor:
        return _Part(logits, 0, None)
    from torch.distributed.tensor import DTensor

    if not isinstance(logits, DTensor):
        return _Part(logits, 0, None)
    mesh, placements, last = logits.device_mesh, logits.placements, logits.ndim - 1
    spread = [axis for axis, placement in enumerate(placements) if placement.is_shard(last)]
    whole = all(placement.is_replicate() for axis, placement in enumerate(placements) if axis not in spread)
    assert len(spread) <= 1 and whole, f"scores may be spread over the vocabulary alone, not as {placements}"
    here = logits.to_local()
    if not spread:
        return _Part(here, 0, None)
    size = -(-logits.shape[-1] // mesh.size(spread[0]))  # all parts but the last ones are as large
    return _Part(here, size * mesh.get_local_rank(spread[0]), mesh.get_group(spread[0]))


def _blocks(logits: Tensor) -> Iterator[slice]:
    rows = max(1, BLOCKS.get(logits.device.type, BLOCK) // max(1, logits.shape[1]))
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


class _CrossEntropy(torch.autograd.Function):
    """The sum of losses; ``log(sum(exp(x)))`` of each row is kept for the backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, first: int, group: dist.ProcessGroup | None) -> Tensor:
        counts = targets != IGNORED
        index = (targets - first).where(counts, 0)
        if group is None:
            here = counts
        else:
            here = counts & (index >= 0) & (index < logits.shape[1])
            index = index.where(here, 0)
        top = logits.amax(1).float()
        right = logits.gather(1, index[:, None]).squeeze(1).float()
        if group is not None:
            dist.all_reduce(top, dist.ReduceOp.MAX, group)
        sums = torch.empty_like(top)
        work = torch.empty_like(logits[next(_blocks(logits))], dtype=torch.float32)
        for block in _blocks(logits):
            x = logits[block]
            torch.sum(torch.sub(x, top[block, None], out=work[: len(x)]).exp_(), 1, out=sums[block])
        right = (right - top).where(here, 0)
        if group is not None:
            both = torch.stack((sums, right))
            dist.all_reduce(both, group=group)
            sums, right = both
        log_sums = sums.log_()
        ctx.save_for_backward(logits, index, here, counts, top + log_sums)
        return (log_sums - right).where(counts, 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, index, here, counts, normaliser = ctx.saved_tensors
        scale = (grad * counts)[:, None]  # (B * N, 1)
        minus = here.float().neg_()[:, None]
        for block in _blocks(logits):
            x = logits[block]
            probs = x if x.dtype == torch.float32 else x.float()
            probs.sub_(normaliser[block, None]).exp_().scatter_add_(1, index[block, None], minus[block])
            torch.mul(probs, scale[block], out=x)
        return logits, None, None, None
