"""The loss fused with the joint is the loss of all its scores, slab by slab, and never has them all."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from anemone.losses import slabs
from anemone.losses.transducer import fused_transducer_loss, transducer_loss

KINDS = {
    "rnnt": {},
    "fastemit": {"fastemit": 0.1},
    "clamp": {"clamp": 0.05},
    "tdt": {"durations": (0, 1, 2, 3, 4), "sigma": 0.02},
    "multi_blank": {"big_blanks": (2, 4), "sigma": 0.05},
}
LENS = (
    torch.tensor([9, 6, 1, 7]),
    torch.tensor([[0, 1, 2, 3], [3, 3, 0, 0], [1, 2, 0, 0], [0] * 4]),
    torch.tensor([4, 2, 2, 0]),
)
WEIGHTS = torch.tensor([1.0, -2.0, 3.0, 0.5])  # of the utterances, so that each has its own gradient


class Joint(nn.Module):
    """Counts the nodes it was asked for."""

    def __init__(self, width: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout, self.linear, self.most = nn.Dropout(dropout), nn.Linear(width, size), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.most = max(self.most, x[..., 0].numel())
        return self.linear(self.dropout(x.tanh()))


def example(kind: dict, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, Joint]:
    torch.manual_seed(0)
    size = 5 + len(kind.get("durations", ())) + len(kind.get("big_blanks", ()))
    x, predicted = (torch.randn(4, n, 6, dtype=dtype, requires_grad=True) for n in (10, 6))
    return x, predicted, Joint(6, size).to(dtype)


def gradients(loss: Callable[[], torch.Tensor], *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    losses = loss()
    return losses, *torch.autograd.grad((losses * WEIGHTS).sum(), inputs)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("slab", [1, 100, 1 << 18])
def test_fused_equals_unfused_in_losses_and_all_gradients(name, slab, monkeypatch):
    monkeypatch.setitem(slabs.SLABS, "cpu", slab)
    kind = KINDS[name]
    x, predicted, joint = example(kind)
    inputs = (x, predicted, *joint.parameters())
    whole = gradients(lambda: transducer_loss(joint(x[:, :, None] + predicted[:, None]), *LENS, **kind), *inputs)
    joint.most = 0
    fused = gradients(lambda: fused_transducer_loss(x, predicted, joint, *LENS, **kind), *inputs)
    for a, b in zip(fused, whole, strict=True):
        torch.testing.assert_close(a, b)
    assert joint.most <= max(slab // 6, 5)  # nodes: the width of a node is at least 6, and a frame has at most 5


def test_padding_is_never_given_to_the_joint():
    x, predicted, joint = example({})
    inputs = (x, predicted, *joint.parameters())
    clean = gradients(lambda: fused_transducer_loss(x, predicted, joint, *LENS), *inputs)
    with torch.no_grad():
        for b, (t, u) in enumerate(zip(LENS[0], LENS[2], strict=True)):
            x[b, t:], predicted[b, u + 1 :] = torch.nan, torch.inf
    dirty = gradients(lambda: fused_transducer_loss(x, predicted, joint, *LENS), *inputs)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


def test_dropout_is_the_same_in_the_backward():
    x, predicted, joint = example({})
    joint.dropout.p = 0.5

    def loss(weight: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        joint.linear.weight.data = weight.detach()
        return (fused_transducer_loss(x, predicted, joint, *LENS) * WEIGHTS).sum()

    (gradient,) = torch.autograd.grad(loss(joint.linear.weight.clone()), joint.linear.weight)
    weight, step = joint.linear.weight.detach().clone(), torch.zeros(5, 6, dtype=torch.float64)
    step[2, 3] = 1e-6
    slope = (loss(weight + step) - loss(weight - step)) / 2e-6
    torch.testing.assert_close(gradient[2, 3], slope.detach(), rtol=1e-6, atol=1e-6)
    torch.manual_seed(1)
    total = fused_transducer_loss(x, predicted, joint, *LENS).sum()
    state = torch.get_rng_state()
    total.backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_reaches_the_joint_and_its_backward_but_not_the_loss():
    x, predicted, joint = example({}, torch.float32)
    inputs = (x, predicted, *joint.parameters())
    seen = []
    joint.linear.register_forward_hook(lambda module, given, output: seen.append(output.dtype))

    def whole() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return transducer_loss(joint(x[:, :, None] + predicted[:, None]), *LENS)

    def fused() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            losses = fused_transducer_loss(x, predicted, joint, *LENS)
            assert joint.linear(x[:, 0]).requires_grad  # weights cast without gradients are not kept for others
            return losses

    for a, b in zip(gradients(fused, *inputs), gradients(whole, *inputs), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
    assert set(seen) == {torch.bfloat16}


def test_without_gradients_there_are_losses_alone():
    x, predicted, joint = example({})
    expected = fused_transducer_loss(x, predicted, joint, *LENS)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            losses = fused_transducer_loss(x, predicted, joint, *LENS)
        assert torch.equal(losses, expected) and not losses.requires_grad


def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same():
    x, predicted, joint = example({})
    expected = gradients(lambda: fused_transducer_loss(x, predicted, joint, *LENS), predicted, joint.linear.bias)
    joint.linear.weight.requires_grad_(False)
    frozen = x.detach()
    found = gradients(lambda: fused_transducer_loss(frozen, predicted, joint, *LENS), predicted, joint.linear.bias)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert joint.linear.weight.grad is None


def test_a_second_backward_is_refused_and_so_is_a_second_derivative():
    x, predicted, joint = example({})
    total = fused_transducer_loss(x, predicted, joint, *LENS).sum()
    total.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        total.backward()
    losses = fused_transducer_loss(x, predicted, joint, *LENS)
    (gradient,) = torch.autograd.grad((losses**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_weights_changed_before_the_backward_are_noticed():
    x, predicted, joint = example({})
    total = fused_transducer_loss(x, predicted, joint, *LENS).sum()
    with torch.no_grad():
        joint.linear.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
