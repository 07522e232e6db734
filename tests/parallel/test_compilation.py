"""Compilation block by block: one graph for all, the same numbers, also recomputed and divided over processes."""

import logging

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._functorch import config as functorch
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import RowwiseParallel

from anemone.models.text.llama import LlamaConfig
from anemone.parallel import apply, recompute, tensor
from anemone.parallel.compilation import compile_blocks
from anemone.parallel.plans.llama import PLAN
from anemone.parallel.processes import run_ranks
from anemone.parallel.recompute import AutoConfig, FullConfig, SelectiveConfig
from tests.parallel.steps import laid_out, step, whole

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler looks, and hides it


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()


def llama():
    torch.manual_seed(0)
    sizes = {"d_model": 32, "num_layers": 5, "num_heads": 4, "num_kv_heads": 2, "d_ff": 48}
    return LlamaConfig(size="custom", **sizes).build(64)


def steps(network, segments=None):
    positions = torch.arange(16).expand(2, 16)
    for _ in range(3):
        network.zero_grad()
        loss = network(positions, positions, segments).logsumexp(-1).sum()
        loss.backward()
    return loss.item(), {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("config", [None, FullConfig(), SelectiveConfig()])
def test_all_blocks_share_one_graph_and_give_the_same_numbers(config):
    loss, grads = steps(llama())
    network = llama()
    recompute.recompute(network, PLAN, config)
    compile_blocks(network, PLAN, backend="aot_eager")
    compiled, near = steps(network)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert compiled == pytest.approx(loss, rel=1e-6)
    assert all(float((near[name] - g).norm() / g.norm()) < 2e-6 for name, g in grads.items())
    assert list(near) == list(grads)


def test_a_budget_chooses_outside_of_the_graphs():
    loss, _ = steps(llama())
    network = llama()
    recompute.recompute(network, PLAN, AutoConfig(budget="1MiB"))
    compile_blocks(network, PLAN, backend="aot_eager")
    assert steps(network)[0] == pytest.approx(loss, rel=1e-6)
    assert counters["stats"]["unique_graphs"] >= 1


def test_a_recomputed_block_that_cannot_be_compiled_says_so(caplog):
    recompute._tell_of_fallback.cache_clear()
    network = llama()
    recompute.recompute(network, PLAN, FullConfig())
    compile_blocks(network, PLAN, backend="aot_eager")
    with caplog.at_level(logging.WARNING):
        steps(network, segments=torch.arange(16).expand(2, 16) // 5)
    assert "A recomputed block runs without compilation" in caplog.text


# --- on many processes ------------------------------------------------------------------------------------------------


def over(rank, layout, hooks, stock=False):
    """Loss and gradients of a step over a layout, with the hook on the embedding and, where asked, without.

    The embedding is divided in our way, which waits for its sum, or in torch's own, whose sum is still under way.
    """
    if stock:
        tensor.STYLES["embedding"] = lambda between: RowwiseParallel(
            input_layouts=Replicate(), output_layouts=between.states
        )
    found = []
    for hook in hooks:

        def quick(network, plan, *, tensor_parallel, hook=hook):
            compile_blocks(network, plan, tensor_parallel=tensor_parallel and hook, backend="aot_eager")

        apply.compile_blocks = quick
        torch._dynamo.reset()
        parallel = laid_out(layout)
        try:
            loss = step(parallel)
        except AttributeError as error:
            found.append(str(error))
            continue
        if not stock:  # whose gradient of the table is whole on each rank
            parallel.reduce()
        graphs = counters["stats"]["unique_graphs"]
        found.append((loss, {name: whole(p.grad) for name, p in parallel.network.named_parameters()}, graphs))
    return found


@pytest.fixture(scope="module")
def plain():
    return run_ranks(1, over, {}, [True])[0][0]


def agrees(run, plain):
    loss, grads, _ = run
    assert loss == pytest.approx(plain[0], rel=1e-6)
    assert all(float((g - plain[1][name]).norm() / plain[1][name].norm()) < 2e-6 for name, g in grads.items())
    return True


def test_tensor_parallel_blocks_need_the_hook_on_the_embedding(plain):
    """Without it a block is given a tensor that is still under way: torch 2.13 breaks, or is silently wrong."""
    compiled, without = run_ranks(2, over, {"tp": 2, "compile": True}, [True, False], True)[0]
    assert agrees(compiled, plain) and compiled[2] == 1 and plain[2] == 0
    assert isinstance(without, str) or not agrees(without, plain)


def test_graphs_over_tensor_parallel_are_not_taken_from_the_cache_that_ranks_share(monkeypatch):
    """It would give a rank the process groups of another: a warm cache broke tp with cp, and only a warm one."""
    monkeypatch.setattr(functorch, "enable_autograd_cache", True)
    compile_blocks(nn.Sequential(), PLAN)
    assert functorch.enable_autograd_cache
    compile_blocks(nn.Sequential(), PLAN, tensor_parallel=True)
    assert not functorch.enable_autograd_cache


def test_compiled_blocks_are_sharded_divided_and_recomputed(plain):
    layout = {"dp_shard": 2, "tp": 2, "compile": True, "recompute": SelectiveConfig()}
    [compiled] = run_ranks(4, over, layout, [True])[0]
    assert agrees(compiled, plain) and compiled[2] == 1
