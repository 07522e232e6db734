"""A mixture of experts trains in every layout as on one process, its balance included, and sends what it must."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from anemone.errors import ConfigError
from anemone.losses.token_cross_entropy import token_cross_entropy
from anemone.nn.moe import MoE, balance_loss
from anemone.parallel.expert import SharedBalance, SpreadExperts, apply_experts
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.plans import Plan
from anemone.parallel.processes import run_ranks
from anemone.parallel.recompute import FullConfig
from tests.parallel.steps import Messages, laid_out

PLAN = Plan(blocks=(), experts=("layers.*.experts",))
OPTIONS: dict[str, Any] = {
    "steps": 1, "num_layers": 2, "num_experts": 4, "num_experts_per_token": 2, "balance": 0.05
}  # fmt: skip


# --- the whole of a training step -------------------------------------------------------------------------------------


LAYOUTS = [
    (2, {"dp_shard": 2, "ep": 2}),
    (4, {"dp_shard": 4, "ep": 2, "zero": 2}),
    (4, {"dp_replicate": 2, "dp_shard": 2, "ep": 2, "zero": 1}),
    (2, {"cp": 2}),
    (4, {"dp_shard": 2, "cp": 2, "ep": 4, "cp_method": "gather"}),
    (2, {"tp": 2}),
    (2, {"tp": 2, "sequence_parallel": False}),
    (4, {"dp_shard": 2, "ep": 2, "tp": 2}),
    (4, {"cp": 2, "tp": 2, "cp_method": "ulysses"}),
    (4, {"dp_shard": 2, "ep": 2, "pp": 2}),
]


@pytest.mark.parametrize(("size", "layout"), LAYOUTS, ids=lambda x: "-".join(map(str, x)) if isinstance(x, dict) else x)
def test_a_layout_trains_experts_as_one_process_does(parity, bars, size, layout):
    errors = parity(size, ParallelConfig(**layout), **OPTIONS)
    assert all(error <= bar for error, bar in zip(errors, bars, strict=True)), errors


# --- one layer --------------------------------------------------------------------------------------------------------


def layer(num_experts: int = 4, *, balance: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    moe = MoE(16, 24, num_experts=num_experts, num_experts_per_token=2, balance=balance)
    for weight in moe.parameters():
        nn.init.normal_(weight, std=0.5)
    net = nn.Module()
    net.layers = nn.ModuleDict({"0": moe})
    return net


def tokens(rank: int) -> Tensor:
    """As many as no other rank has; rank 0 has none."""
    return torch.randn(1, 3 * rank, 16, generator=torch.Generator().manual_seed(rank))


def uneven(rank: int) -> float:
    """Each rank's outputs, input gradients and the sum of expert gradients against one layer that has all experts."""
    mesh, size = Mesh(ParallelConfig(dp_shard=4, ep=4)), 4
    net, whole = layer(), layer()
    apply_experts(net, PLAN, mesh)
    x, z = tokens(rank).requires_grad_(), torch.cat([tokens(i) for i in range(size)], 1).requires_grad_()
    out, want = net.layers["0"](x), whole.layers["0"](z)
    out.square().sum().backward()
    want.square().sum().backward()
    at = slice(sum(3 * i for i in range(rank)), sum(3 * i for i in range(rank + 1)))
    pairs = [(out, want[:, at]), (x.grad, z.grad[:, at])]
    for name in ("gate", "up", "down"):
        own = getattr(net.layers["0"].experts, name).grad.to_local()
        pairs.append((own, getattr(whole.layers["0"].experts, name).grad.chunk(size)[rank]))
    return max(float((a - b).abs().max() / (b.abs().max() + 1e-30)) for a, b in pairs if a.numel())


def test_ranks_may_have_any_number_of_tokens_even_none():
    assert max(run_ranks(4, uneven)) < 1e-5


def crowded(rank: int) -> tuple[list[int], bool]:
    """All tokens want the first two experts; the last ranks have nothing to do, and a gradient of zeros."""
    mesh = Mesh(ParallelConfig(dp_shard=4, ep=4))
    net = layer()
    with torch.no_grad():
        net.layers["0"].router.weight.copy_(torch.tensor([3.0, 2.0, 0.0, 0.0])[:, None].expand(4, 16))
    apply_experts(net, PLAN, mesh)
    x = torch.rand(1, 5, 16)
    net.layers["0"](x).sum().backward()
    gradients = [p.grad.to_local() for p in net.layers["0"].experts.parameters()]
    return [len(g) for g in gradients], all(bool(g.any()) for g in gradients)


def test_experts_that_no_token_wants_have_gradients_of_zero():
    found = run_ranks(4, crowded)
    assert [busy for _, busy in found] == [True, True, False, False]
    assert all(shapes == [1, 1, 1] for shapes, _ in found)


def messages(rank: int, layout: dict[str, int], balance: float) -> tuple[list[str], list[str]]:
    mesh, net = Mesh(ParallelConfig(**layout)), layer(balance=balance)
    apply_experts(net, PLAN, mesh)
    x = torch.randn(1, 8, 16).requires_grad_()
    with Messages() as forward:
        out = net.layers["0"](x)
    with torch.autograd.set_multithreading_enabled(False), Messages() as backward:
        out.sum().backward()
    return forward.names, backward.names


def test_a_layer_sends_sizes_rows_and_results_and_gradients_go_back():
    for forward, backward in run_ranks(2, messages, {"dp_shard": 2, "ep": 2}, 0.1):
        assert forward == ["alltoall_base"] * 3
        assert backward == ["alltoall_base"] * 2


def test_parts_of_a_sequence_count_together_and_only_where_balance_is_asked_for():
    for forward, backward in run_ranks(2, messages, {"cp": 2}, 0.1):
        assert (forward, backward) == (["allreduce"], [])
    assert run_ranks(2, messages, {"cp": 2}, 0.0)[0] == ([], [])


# --- balance ----------------------------------------------------------------------------------------------------------


def shares(rank: int) -> Tensor:
    """Gradient of the balance of all tokens by the probabilities of this rank's."""
    group = dist.group.WORLD
    probs = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)).chunk(2)[rank].requires_grad_()
    sizes = torch.tensor([[6, 1, 1], [0, 3, 5]])[rank]
    SharedBalance(0.5, group, 1.0)(probs, sizes).backward(torch.zeros(4, 3))
    return probs.grad


def test_the_balance_of_shared_tokens_has_the_gradient_of_the_balance_of_all():
    probs = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (want,) = torch.autograd.grad(0.5 * balance_loss(probs, torch.tensor([6, 4, 6])), [probs])
    torch.testing.assert_close(torch.cat(run_ranks(2, shares)), want)


def gradients(rank: int, layout: dict[str, Any], padded: bool) -> dict[str, Tensor]:
    """Of two micro-batches, after which two of weight 0 may follow to fill up a pipeline."""
    parallel = laid_out(layout, {"size": "mixtral_tiny", "num_layers": 4, "balance": 0.5})
    net = parallel.network
    generator = torch.Generator().manual_seed(0)
    tokens, targets = torch.randint(64, (2, 4, 2, 16), generator=generator)
    positions = torch.arange(16).expand(2, 16)

    def lost(output: Tensor, number: int) -> Tensor:
        return token_cross_entropy(output, targets[number])[0] * float(number < 2)

    if padded:
        parallel.schedule(lost).step([(micro_batch, positions) for micro_batch in tokens])
    else:
        for number, micro_batch in enumerate(tokens[:2]):
            parallel.begin(last=number == 1)
            lost(net(micro_batch, positions), number).backward()
    parallel.reduce()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("layout", [{"recompute": FullConfig()}, {"schedule": "zbv"}])
def test_what_fills_up_a_pipeline_has_no_balance(layout):
    (want,) = run_ranks(1, gradients, {}, False)
    for found in run_ranks(2, gradients, {"pp": 2, **layout}, True):
        assert found
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, want[name], rtol=1e-5, atol=1e-6, msg=name)


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(rank: int) -> list[str]:
    said = []
    for layout, num_experts in (({"dp_shard": 2, "ep": 2}, 3), ({"tp": 2}, 4)):
        with pytest.raises(ConfigError) as caught:
            apply_experts(layer(num_experts), PLAN, Mesh(ParallelConfig(**layout)))
        said.append(str(caught.value))
    return said


def test_experts_that_do_not_divide_are_refused_by_name():
    number, width = run_ranks(2, refused)[0]
    assert number.startswith("`parallel.ep` must be a divisor of the 3 experts of `layers.0`, but is 2")
    assert width.startswith("`parallel.tp` must be such that each part of 24, the width of an expert of `layers.0`")


def names(rank: int) -> list[str]:
    net = layer()
    apply_experts(net, PLAN, Mesh(ParallelConfig(dp_shard=2, ep=2)))
    assert isinstance(net.layers["0"].experts, SpreadExperts)
    return list(net.state_dict())


def test_parameters_keep_their_names():
    assert run_ranks(2, names)[0] == list(layer().state_dict())
