"""Equal to PyTorch's own loss in value and gradient, in place, and on a vocabulary spread over processes."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import functional as F

from anemone.config import decode, load_class
from anemone.losses import LOSSES
from anemone.losses.token_cross_entropy import BLOCKS, token_cross_entropy
from anemone.testing import run_ranks
from anemone.types import IGNORED

V = 60


def scores(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(3, 50, V, generator=generator)
    logits[0, 0] += 1e4  # as large as no exponential can hold
    targets = torch.randint(V, (3, 50), generator=generator)
    targets[:, ::7] = IGNORED
    return logits.to(dtype), targets


def expected(logits, targets):
    """Loss and gradient by PyTorch in float64."""
    x = logits.double().requires_grad_()
    loss = F.cross_entropy(x.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORED)
    loss.backward()
    return loss.detach(), x.grad


@pytest.mark.parametrize("block", [1, V * 4, 1 << 17], ids=["a row at a time", "blocks that leave a rest", "one block"])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)], ids=str
)
def test_loss_and_gradient_are_those_of_pytorch(monkeypatch, dtype, rtol, block):
    """The loss to 1e-6 in any type, the gradient to the rounding of its type."""
    monkeypatch.setitem(BLOCKS, "cpu", block)
    logits, targets = scores(dtype)
    loss, gradient = expected(logits, targets)
    x = logits.clone().requires_grad_()
    total, count = token_cross_entropy(x * 1, targets)
    (total / 4).backward()
    assert total.dtype == count.dtype == torch.float32
    assert total.item() == pytest.approx(loss.item(), rel=1e-6)
    assert count.item() == (targets != IGNORED).sum()
    assert x.grad.dtype == dtype
    assert torch.allclose(4 * x.grad.double(), gradient, rtol=rtol, atol=1e-6)


def test_positions_that_do_not_count_get_no_gradient():
    logits, targets = scores()
    x = logits.requires_grad_()
    token_cross_entropy(x * 1, targets).total.backward()
    assert not x.grad[targets == IGNORED].any()
    assert x.grad[targets != IGNORED].any(-1).all()


def test_nothing_counts_where_all_is_ignored():
    logits, targets = scores()
    total, count = token_cross_entropy(logits, torch.full_like(targets, IGNORED))
    assert total.item() == count.item() == 0


def test_the_gradient_lies_where_the_scores_lay():
    logits, targets = scores()
    x = logits.requires_grad_()
    y = x * 1
    (gradient,) = torch.autograd.grad(token_cross_entropy(y, targets).total, y)
    assert gradient.data_ptr() == y.data_ptr()


def test_without_a_backward_the_scores_stay():
    logits, targets = scores()
    before = logits.clone()
    token_cross_entropy(logits.requires_grad_(), targets)
    assert torch.equal(logits, before)


def test_scores_that_another_operation_keeps_are_refused():
    """The hyperbolic tangent keeps its output for its gradient, which would be lost."""
    logits, targets = scores()
    total = token_cross_entropy(logits.requires_grad_().tanh(), targets).total
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_a_second_backward_is_refused():
    logits, targets = scores()
    total = token_cross_entropy(logits.requires_grad_() * 1, targets).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_a_target_outside_the_vocabulary_is_refused():
    logits, targets = scores()
    targets[0, 1] = V
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        token_cross_entropy(logits, targets)


def spread(rank, placements, sizes):
    """Losses and gradients of a linear head whose vocabulary is spread over processes."""
    mesh = init_device_mesh("cpu", sizes)
    logits, targets = scores()
    x = distribute_tensor(logits, mesh, placements).requires_grad_()
    total, count = token_cross_entropy(x * 1, targets)
    (total / 4).backward()
    assert isinstance(x.grad, DTensor) and x.grad.placements == x.placements
    return total.item(), count.item(), x.grad.full_tensor()


@pytest.mark.parametrize(
    ("n", "placements", "sizes"),
    [(2, [Shard(2)], (2,)), (2, [Replicate()], (2,)), (4, [Replicate(), Shard(2)], (2, 2))],
    ids=["spread", "whole", "spread within copies"],
)
def test_a_spread_vocabulary_gives_the_loss_of_a_whole_one(n, placements, sizes):
    logits, targets = scores()
    loss, gradient = expected(logits, targets)
    for total, count, got in run_ranks(n, spread, placements, sizes):
        assert total == pytest.approx(loss.item(), rel=1e-6)
        assert count == (targets != IGNORED).sum()
        assert torch.allclose(4 * got.double(), gradient, rtol=1e-6, atol=1e-6)


def counted(rank):
    """Bytes that the loss sends, by collective."""
    from torch.distributed.tensor.debug import CommDebugMode

    mesh = init_device_mesh("cpu", (2,))
    logits, targets = scores()
    x = distribute_tensor(logits, mesh, [Shard(2)]).requires_grad_() * 1
    sizes = []
    reduce = dist.all_reduce

    def all_reduce(tensor, *args, **kwargs):
        sizes.append(tensor.numel())
        return reduce(tensor, *args, **kwargs)

    dist.all_reduce = all_reduce
    with CommDebugMode() as seen:
        token_cross_entropy(x, targets).total.backward()
    dist.all_reduce = reduce
    return sizes, seen.get_total_counts()


def test_a_spread_vocabulary_sends_three_numbers_a_position():
    for sizes, total in run_ranks(2, counted):
        assert sizes == [150, 300]
        assert total == 2


def test_the_kind_stands_in_the_table():
    assert decode(load_class(LOSSES["token_cross_entropy"]), {}).build() is token_cross_entropy
