"""Compilation block by block: one graph for all, the same numbers, also recomputed and divided over processes."""

import logging

import pytest
import torch
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import RowwiseParallel

from anemone.losses.token_cross_entropy import token_cross_entropy
from anemone.models.text.llama import LlamaConfig
from anemone.parallel import apply, recompute, tensor
from anemone.parallel.apply import parallelize
from anemone.parallel.compilation import compile_blocks
from anemone.parallel.initial import initialize
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.plans.llama import PLAN
from anemone.parallel.processes import run_ranks
from anemone.parallel.recompute import AutoConfig, FullConfig, SelectiveConfig

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


SIZES = {"size": "custom", "d_model": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_ff": 128}


def micro_batches(mesh):
    """Tokens, targets and positions: this rank's two, or one, of two micro-batches."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(0, 64, (2, 17), generator=generator) for _ in range(2)]
    whole = [(row[:, :-1], row[:, 1:], torch.arange(16).expand(2, 16)) for row in rows]
    return whole[mesh.data_rank :: mesh.data_world]


def step(parallel):
    """Goes forward and backward; returns the sum of losses over all ranks."""
    mine, total = micro_batches(parallel.mesh), torch.zeros(())
    for number, (tokens, targets, positions) in enumerate(mine):
        parallel.begin(last=number + 1 == len(mine))
        loss = token_cross_entropy(parallel.network(tokens, positions), targets)[0]
        loss.backward()
        total += loss.detach()
    if (axis := parallel.mesh.axis("loss")) is not None:
        torch.distributed.all_reduce(total, group=axis.get_group())
    return total.item()


def whole(gradient):
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


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
        with torch.device("meta"):
            network = LlamaConfig(**SIZES).build(64)
        parallel = parallelize(network, Mesh(ParallelConfig(**layout)))
        initialize(network, network.draw, seed=7)
        try:
            loss = step(parallel)
        except AttributeError as error:
            found.append(str(error))
            continue
        if not stock:  # whose gradient of the table is whole on each rank
            parallel.reduce()
        graphs = counters["stats"]["unique_graphs"]
        found.append((loss, {name: whole(p.grad) for name, p in network.named_parameters()}, graphs))
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


def test_compiled_blocks_are_sharded_divided_and_recomputed(plain):
    layout = {"dp_shard": 2, "tp": 2, "compile": True, "recompute": SelectiveConfig()}
    [compiled] = run_ranks(4, over, layout, [True])[0]
    assert agrees(compiled, plain) and compiled[2] == 1
