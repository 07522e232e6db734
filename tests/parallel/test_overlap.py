"""Communication overlaps with computation: shown by the order in which both are issued, and by traces.

No GPU is at hand, and gloo gathers weights before it returns; what is held here is that each message is on its way as
early as it can be, which is what overlaps where messages have a stream of their own.
"""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from anemone.errors import ConfigError
from anemone.losses.token_cross_entropy import token_cross_entropy
from anemone.parallel import gradients
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.processes import run_ranks
from tests.parallel.steps import laid_out

SIZES = {"size": "custom", "d_model": 32, "num_layers": 4, "num_heads": 2, "num_kv_heads": 2, "d_ff": 48}
MESSAGES = {
    "_allgather_base_": "gather",
    "_reduce_scatter_base_": "scatter",
    "allreduce_": "sum",
    "send": "send",
    "recv_": "receive",
}


class Order(TorchDispatchMode):
    """Notes messages, and what hooks add between them, in the order in which they are issued."""

    def __init__(self):
        super().__init__()
        self.events = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name.startswith("c10d::") and (message := MESSAGES.get(name.removeprefix("c10d::"))):
            self.events.append(message)
        return func(*args, **(kwargs or {}))

    def watch(self, network):
        """Notes forwards and backwards of blocks: F0 when that of block 0 begins, B0 likewise."""

        def forward(number):
            return lambda *_: self.events.append(f"F{number}")

        def backward(number):
            def hook(_, args, out):
                if out.requires_grad:
                    out.register_hook(lambda _: self.events.append(f"B{number}"))

            return hook

        for number, layer in network.layers.items():
            layer.attention.register_forward_pre_hook(forward(number))  # after the weights of the block are there
            layer.ffn.register_forward_hook(backward(number))


def tokens(rows=1):
    positions = torch.arange(8).expand(rows, 8)
    return positions % 7, positions


def learn(parallel, last=True):
    parallel.begin(last)
    token_cross_entropy(parallel.network(*tokens()), tokens()[0])[0].backward()


# --- weights ----------------------------------------------------------------------------------------------------------


def gathered(rank):
    """Events of one forward and backward, by how many blocks are gathered ahead."""
    found = {}
    for ahead in (0, 1, 2):
        parallel = laid_out({"dp_shard": 2, "prefetch": ahead}, SIZES)
        with Order() as order:
            order.watch(parallel.network)
            learn(parallel)
            parallel.reduce()
        found[ahead] = order.events
    return found


@pytest.fixture(scope="module")
def weights():
    return run_ranks(2, gathered)[0]


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_the_weights_of_so_many_blocks_are_asked_for_ahead(weights, ahead):
    """Before the first block come the embedding and what is in no unit of its own."""
    asked = [weights[ahead][: weights[ahead].index(f"F{number}")].count("gather") for number in range(4)]
    assert asked == [2 + min(3, number + ahead) for number in range(4)]


@pytest.mark.parametrize(("ahead", "asked"), [(1, [2, 3, 4]), (2, [3, 4, 4])])
def test_on_the_way_back_weights_are_asked_for_ahead_and_gradients_leave_block_by_block(weights, ahead, asked):
    back = weights[ahead][weights[ahead].index("scatter") :]  # the first gradients are those of the head
    assert [back[: back.index(f"B{number}")].count("gather") for number in (3, 2, 1)] == asked
    assert [back[: back.index(f"B{number}")].count("scatter") for number in (3, 2, 1, 0)] == [2, 3, 4, 5]


# --- sums of gradients ------------------------------------------------------------------------------------------------


def summed(rank):
    """Events of two micro-batches, the first of which sums nothing; and whether a sum ran beside a product."""
    gradients.BUCKET_BYTES = 30_000  # about a block
    parallel = laid_out({"dp_replicate": 2}, SIZES)
    with Order() as order:
        order.watch(parallel.network)
        learn(parallel, last=False)
        order.events.append("next")
        learn(parallel)
        order.events.append("reduce")
        parallel.reduce()
    return order.events, len(parallel._sums.buckets)


def test_sums_leave_during_the_last_backward_bucket_by_bucket():
    events, buckets = run_ranks(2, summed)[0]
    first, last = events[: events.index("next")], events[events.index("next") :]
    assert first.count("sum") == 0 and last.count("sum") == buckets >= 4
    sent = [last[: last.index(f"B{number}")].count("sum") for number in (2, 1, 0)]
    assert sent == sorted(sent) and sent[0] >= 1 and sent[2] >= 3  # those of the head and of later blocks
    assert last[last.index("reduce") :].count("sum") == 0  # all are away when the backward ends


def traced(rank):
    """Spans of sums and of products of five backward passes, microseconds."""
    gradients.BUCKET_BYTES = 2**20
    parallel = laid_out({"dp_replicate": 2}, SIZES | {"d_model": 256, "d_ff": 704})
    return [spans(parallel) for _ in range(5)]


def spans(parallel):
    parallel.begin(True)
    loss = parallel.network(*tokens(16)).logsumexp(-1).sum()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        loss.backward()
        parallel.reduce()
    found = {"gloo:all_reduce": [], "aten::mm": []}
    for event in profiler.events():
        if event.name in found:
            found[event.name].append((event.time_range.start, event.time_range.end))
    return found["gloo:all_reduce"], found["aten::mm"]


def test_a_sum_is_under_way_while_products_are_computed():
    """In one pass of five at least: a busy machine may run the threads of a process one after the other."""
    passes = run_ranks(2, traced)[0]
    assert all(len(sums) > 4 for sums, _ in passes)
    assert any(a < end and start < b for sums, products in passes for start, end in sums for a, b in products)


# --- stages -----------------------------------------------------------------------------------------------------------


def passed(rank):
    """Events of four micro-batches through two stages, by schedule."""
    found = {}
    for schedule in ("gpipe", "1f1b"):
        parallel = laid_out({"pp": 2, "schedule": schedule}, SIZES)
        driver = parallel.schedule(lambda output, number: output.logsumexp(-1).sum())
        block = next(iter(parallel.network.layers))
        with Order() as order:
            order.watch(parallel.network)
            driver.step([tokens()] * 4)
        mine = [event for event in order.events if event in ("send", "receive", f"F{block}", f"B{block}")]
        start = mine.index(f"F{block}") - rank  # before it the ranks greet each other; the second waits for states
        found[schedule] = [event.removesuffix(block) for event in mine[start:]]
    return found


def test_stages_pass_states_on_as_soon_as_they_have_them():
    first, second = run_ranks(2, passed)
    for events in (*first.values(), *second.values()):
        assert events.count("send") == events.count("receive") == 4
    kinds = {name: "".join(e for e in first[name] if e in ("F", "B")) for name in first}
    assert kinds == {"gpipe": "FFFFBBBB", "1f1b": "FFBFBFBB"}
    assert "".join(e for e in second["1f1b"] if e in ("F", "B")) == "FBFBFBFB"
    for name, events in first.items():  # every state is sent before the next micro-batch is begun
        sent = [events[:i].count("send") for i, e in enumerate(events) if e == "F"]
        assert sent == [0, 1, 2, 3], name


# --- tensor parallel --------------------------------------------------------------------------------------------------


def asked(rank):
    try:
        Mesh(ParallelConfig(tp=2, async_tp=True, compile=True))
    except ConfigError as error:
        return str(error)


def test_products_that_overlap_with_their_own_messages_are_for_gpus():
    words = run_ranks(2, asked)[0]
    assert words.startswith("`parallel.async_tp` must be false on a CPU: ") and "kernels for GPUs" in words
