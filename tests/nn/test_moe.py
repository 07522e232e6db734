"""Mixture of experts against a loop over tokens, and the load-balancing loss against the plain one."""

import pytest
import torch
import torch.nn.functional as F

from anemone.nn.moe import AddLoss, Balance, Experts, MoE, Router, balance_loss, set_balance_scale, sort

SIZES = [(4, 2), (4, 1), (3, 3), (8, 2)]


def layer(num_experts: int = 4, num_experts_per_token: int = 2, *, balance: float = 0.0, std: float = 0.5) -> MoE:
    torch.manual_seed(0)
    moe = MoE(16, 24, num_experts=num_experts, num_experts_per_token=num_experts_per_token, balance=balance)
    for weight in moe.parameters():
        torch.nn.init.normal_(weight, std=std)
    return moe


def states(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


def by_loop(moe: MoE, x: torch.Tensor) -> torch.Tensor:
    """Equation by equation: one token, one expert at a time."""
    rows = []
    for token in x.flatten(0, -2):
        p = F.softmax(moe.router.weight @ token, 0)
        best = p.topk(moe.num_experts_per_token)
        rows.append(
            sum(
                w
                / best.values.sum()
                * moe.experts.down[c]
                @ (F.silu(moe.experts.gate[c] @ token) * (moe.experts.up[c] @ token))
                for w, c in zip(best.values, best.indices, strict=True)
            )
        )
    return torch.stack(rows).view(x.shape)


def gradients(moe: MoE, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    ramp = torch.linspace(-1, 1, y.numel()).view(y.shape)
    return list(torch.autograd.grad((y * ramp).sum(), [x, *moe.parameters()]))


@pytest.mark.parametrize(("num_experts", "num_experts_per_token"), SIZES)
def test_output_and_gradients_are_those_of_a_loop_over_tokens(num_experts, num_experts_per_token):
    moe, x = layer(num_experts, num_experts_per_token), states(2, 7, 16)
    y, want = moe(x), by_loop(moe, x)
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    plain = gradients(moe, x, want)
    largest = max(float(gradient.abs().max()) for gradient in plain)  # one expert a token: the router has none
    for have, wanted in zip(gradients(moe, x, y), plain, strict=True):
        torch.testing.assert_close(have, wanted, rtol=1e-5, atol=1e-6 * largest)


def test_an_expert_without_tokens_gets_a_gradient_of_zero():
    moe = layer(4, 1)
    with torch.no_grad():
        moe.router.weight[1:] = 0.0
        moe.router.weight[0] = 1.0
    moe(states(1, 3, 16).abs()).sum().backward()
    assert torch.equal(moe.experts.gate.grad.flatten(1).norm(dim=1) > 0, torch.tensor([True, False, False, False]))


def test_the_same_call_gives_the_same_bits():
    moe, x = layer(8, 2), states(4, 32, 16)
    first, second = (gradients(moe, x, moe(x)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_router_computes_in_float32_under_autocast():
    router, x = Router(16, 4), states(5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(router(x), router(x.float()))
        assert router(x).dtype == torch.float32


@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16])
def test_half_precision_stays_within_its_rounding(short):
    moe, x = layer(std=0.3), states(2, 16, 16)
    want = moe(x)
    with torch.autocast("cpu", short):
        y = moe(x)
    assert y.dtype == short
    assert (y - want).norm() < 0.02 * want.norm()
    whole = layer(std=0.3).to(short)
    assert (whole(x.to(short)) - want).norm() < 0.05 * want.norm()


def test_sort_keeps_tokens_of_one_expert_in_their_order():
    order, sizes = sort(torch.tensor([[1, 0], [1, 2], [0, 1]]), 4)
    assert order.tolist() == [1, 4, 0, 2, 5, 3]
    assert sizes.tolist() == [2, 3, 1, 0]


# --- balance ----------------------------------------------------------------------------------------------------------


def test_balance_loss_counts_tokens_where_experts_are_used_alike_and_more_elsewhere():
    even = torch.full((6, 3), 1 / 3)
    assert balance_loss(even, torch.tensor([4, 4, 4])) == pytest.approx(6)
    assert balance_loss(torch.eye(3)[:1].expand(6, -1), torch.tensor([12, 0, 0])) == pytest.approx(18)


@pytest.mark.parametrize("scale", [1.0, 0.125, 0.0])
def test_the_gradient_is_that_of_the_task_and_the_scaled_balance_loss(scale):
    moe, x = layer(4, 2, balance=0.3), states(2, 7, 16)
    plain = layer(4, 2)
    probs = plain.router(x.flatten(0, 1)).softmax(-1)
    _, sizes = sort(probs.topk(2).indices, 4)
    want = torch.autograd.grad(
        plain(x).sum() * 0.5 + 0.3 * scale * balance_loss(probs, sizes), [x, *plain.parameters()]
    )
    set_balance_scale(moe, scale)
    have = torch.autograd.grad(moe(x).sum() * 0.5, [x, *moe.parameters()])
    for a, b in zip(have, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_scale_is_read_in_backward_and_may_be_a_tensor():
    moe, x = layer(4, 2, balance=0.3), states(1, 9, 16)
    set_balance_scale(moe, torch.tensor(4.0))
    (want,) = torch.autograd.grad(moe(x).sum(), [moe.router.weight])
    set_balance_scale(moe, 0.0)
    y = moe(x)
    set_balance_scale(moe, 4.0)
    (have,) = torch.autograd.grad(y.sum(), [moe.router.weight])
    assert torch.equal(have, want)


def test_balance_changes_nothing_without_gradients_or_coefficient():
    probs, sizes = torch.rand(3, 4), torch.tensor([3, 2, 1, 0])
    assert Balance(0.0)(probs, sizes) is probs
    with torch.no_grad():
        assert Balance(1.0)(probs, sizes) is probs


def test_the_scale_has_a_value_on_meta_and_no_place_in_a_checkpoint():
    with torch.device("meta"):
        moe = MoE(16, 24, num_experts=4, num_experts_per_token=2, balance=0.1)
    set_balance_scale(moe, 0.5)
    assert moe.balance.scale == 0.5
    assert set(moe.state_dict()) == {"router.weight", "experts.gate", "experts.up", "experts.down"}


def test_recomputation_adds_the_balance_once():
    from torch.utils.checkpoint import checkpoint

    moe, x = layer(4, 2, balance=0.3), states(1, 9, 16)
    want = torch.autograd.grad(moe(x).sum(), list(moe.parameters()))
    have = torch.autograd.grad(checkpoint(moe, x, use_reentrant=False).sum(), list(moe.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(have, want, strict=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler itself does both
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("short", [torch.float32, torch.bfloat16])
def test_a_compiled_layer_gives_the_same(short):
    moe = layer(balance=0.3).to(short)
    x = torch.randn(1, 9, 16, dtype=short, requires_grad=True)
    want = torch.autograd.grad(moe(x).float().sum(), [x, *moe.parameters()])
    torch._dynamo.reset()
    compiled = torch.compile(moe, backend="aot_eager", fullgraph=short == torch.bfloat16)
    have = torch.autograd.grad(compiled(x).float().sum(), [x, *moe.parameters()])
    for a, b in zip(have, want, strict=True):
        torch.testing.assert_close(a, b)


def test_widths_that_grouped_products_cannot_take_are_refused():
    with pytest.raises(AssertionError, match="multiples of 8"):
        Experts(12, 16, 2)


def test_add_loss_is_the_identity():
    x = torch.randn(3, 2)
    assert torch.equal(AddLoss.apply(x, torch.tensor(1.0), torch.tensor(1.0)), x)
