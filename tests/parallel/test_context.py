"""Attention over parts of a sequence equals that over the whole, by every method, and sends what it says it sends."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from anemone.errors import ConfigError
from anemone.nn.attention import AttentionCore, attention
from anemone.parallel.context import RingCore, UlyssesCore, apply_context, shard_sequence
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.plans import Plan
from anemone.parallel.processes import run_ranks
from anemone.parallel.sequence import Part, sequence_order
from tests.parallel.steps import Messages

LENGTH, ROWS = 48, 2
PLAN = Plan(blocks=(), cores=("layers.*.core",))


class Case(NamedTuple):
    """A method and what is asked of it."""

    method: str
    balance: str = "zigzag"
    heads: tuple[int, int] = (4, 2)
    window: int | None = None
    packed: bool = False
    causal: bool = True


CASES = [
    Case("ring"),
    Case("ring", "contiguous", (8, 1)),
    Case("gather"),
    Case("gather", "contiguous", (4, 4)),
    Case("gather", window=7),
    Case("gather", window=20, packed=True),
    Case("gather", "contiguous", packed=True),
    Case("gather", packed=True, causal=False),
    Case("gather", "contiguous", causal=False),
    Case("ulysses"),
    Case("ulysses", "contiguous", (8, 1)),
    Case("ulysses", window=7),
    Case("ulysses", packed=True, window=20),
    Case("ulysses", packed=True, causal=False),
]


def network(case: Case) -> nn.Module:
    net = nn.Module()
    core = AttentionCore(window=case.window, causal=case.causal)
    net.layers = nn.ModuleDict({"0": nn.ModuleDict({"core": core})})
    return net


def tensors(heads: tuple[int, int]) -> list[Tensor]:
    """Query, key, value and a gradient, (B, N, H, K)."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(ROWS, LENGTH, heads[i], 16) for i in (0, 1, 1, 0)]
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def documents() -> Tensor:
    """Borders inside chunks and on them; the first row is one document."""
    segments = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    for start in (5, 24, 25, 40):
        segments[1, start:] += 1
    return segments


def whole(case: Case) -> list[Tensor]:
    """Output and gradients of query, key and value on one process, in float64 and by a mask."""
    *given, gradient = (x.double() for x in tensors(case.heads))
    given = [x.requires_grad_() for x in given]
    segments = documents() if case.packed else None
    out = attention(*given, causal=case.causal, window=case.window, segments=segments, kernel="sdpa")
    return [out.detach(), *torch.autograd.grad(out, given, gradient)]


def error(have: Tensor, want: Tensor) -> float:
    return float((have.detach() - want).norm() / want.norm())


def errors(rank: int, size: int, cases: list[Case]) -> list[tuple[Case, float]]:
    found = []
    for case in cases:
        mesh = Mesh(ParallelConfig(cp=size, cp_method=case.method, cp_balance=case.balance))
        net = network(case)
        apply_context(net, PLAN, mesh)
        *given, gradient = (shard_sequence(x, mesh, mesh.config) for x in tensors(case.heads))
        given = [x.requires_grad_() for x in given]
        segments = shard_sequence(documents(), mesh, mesh.config) if case.packed else None
        out = net.layers["0"]["core"](*given, segments)
        have = [out, *torch.autograd.grad(out, given, gradient)]
        want = [shard_sequence(x, mesh, mesh.config) for x in whole(case)]
        found.append((case, max(error(a, b) for a, b in zip(have, want, strict=True))))
    return found


@pytest.mark.parametrize("size", [2, 4])
def test_every_method_computes_the_attention_and_gradients_of_one_process(size):
    for found in run_ranks(size, errors, size, CASES):
        assert not [pair for pair in found if not pair[1] < 1e-6]


@pytest.mark.parametrize("size", [3, 8])
def test_odd_and_many_ranks_compute_it_as_well(size):
    heads = (6, 3) if size == 3 else (8, 2)
    cases = [Case(method, heads=heads) for method in ("ring", "gather", "ulysses")]
    for found in run_ranks(size, errors, size, cases):
        assert not [pair for pair in found if not pair[1] < 1e-6]


def short_errors(rank: int) -> list[float]:
    """Under autocast, with values of a dtype of their own, as projections and rotations give them."""
    found = []
    for method in ("ring", "gather", "ulysses"):
        mesh = Mesh(ParallelConfig(cp=2, cp_method=method))
        net = network(Case(method))
        apply_context(net, PLAN, mesh)
        query, key, value, _ = (shard_sequence(x, mesh, mesh.config) for x in tensors((4, 2)))
        with torch.autocast("cpu", torch.bfloat16):
            out = net.layers["0"]["core"](query, key, value.bfloat16())
        assert out.dtype == torch.bfloat16
        found.append(error(out, shard_sequence(whole(Case(method))[0], mesh, mesh.config)))
    return found


def test_autocast_decides_the_format():
    assert max(max(found) for found in run_ranks(2, short_errors)) < 0.01


# --- what is sent -----------------------------------------------------------------------------------------------------


def messages(rank: int, asked: list[tuple[str, bool]]) -> list[tuple[list[str], list[str]]]:
    sent = []
    for method, packed in asked:
        mesh = Mesh(ParallelConfig(cp=4, cp_method=method))
        net = network(Case(method))
        apply_context(net, PLAN, mesh)
        *given, gradient = (shard_sequence(x, mesh, mesh.config) for x in tensors((4, 2)))
        segments = shard_sequence(documents(), mesh, mesh.config) if packed else None
        with Messages() as forward:
            out = net.layers["0"]["core"](*(x.requires_grad_() for x in given), segments)
        with torch.autograd.set_multithreading_enabled(False), Messages() as backward:
            out.backward(gradient)
        sent.append((forward.names, backward.names))
    return sent


GATHER, SUM, EXCHANGE = "allgather_base", "reduce_scatter_base", "alltoall_base"
SENT = {
    ("ring", False): (["send", "recv"] * 3, ["send", "recv"] * 7),
    ("gather", False): ([GATHER], [SUM]),
    ("gather", True): ([GATHER] * 2, [SUM]),
    ("ulysses", False): ([EXCHANGE] * 2, [EXCHANGE] * 2),
    ("ulysses", True): ([EXCHANGE, GATHER, EXCHANGE], [EXCHANGE] * 2),
}


def test_messages_are_few_and_known():
    for sent in run_ranks(4, messages, list(SENT)):
        assert dict(zip(SENT, sent, strict=True)) == SENT


# --- parts and refusals -----------------------------------------------------------------------------------------------


def test_zigzag_gives_each_rank_an_early_and_a_late_chunk():
    assert sequence_order(12, 3, "zigzag").tolist() == [0, 1, 10, 11, 2, 3, 8, 9, 4, 5, 6, 7]
    assert sequence_order(6, 3, "contiguous").tolist() == [0, 1, 2, 3, 4, 5]


def test_zigzag_balances_the_pairs_of_a_causal_mask():
    pairs = (sequence_order(32, 4, "zigzag").view(4, -1) + 1).sum(1)
    assert len(set(pairs.tolist())) == 1


@pytest.mark.parametrize(("length", "size", "balance", "chunks"), [(12, 4, "zigzag", 8), (9, 2, "contiguous", 2)])
def test_sequences_that_do_not_divide_are_refused(length, size, balance, chunks):
    message = rf"`data.sequence_len` must be a multiple of {chunks}, .*`parallel.cp` = {size}.* but is {length} instead"
    with pytest.raises(ConfigError, match=message):
        sequence_order(length, size, balance)


def test_one_process_has_the_whole_sequence():
    mesh, x = Mesh(ParallelConfig()), torch.arange(7)[None]
    assert shard_sequence(x, mesh, mesh.config) is x
    net = network(Case("ring"))
    apply_context(net, PLAN, mesh)
    assert type(net.layers["0"]["core"]) is AttentionCore


def refused(rank: int) -> list[str]:
    mesh = Mesh(ParallelConfig(cp=2))
    part, said = Part(mesh.axis("cp").get_group(), "zigzag"), []
    query, key, value, _ = tensors((3, 3))
    segments = documents()
    for attempt in (
        lambda: RingCore(AttentionCore(window=4), part),
        lambda: RingCore(AttentionCore(), part)(query, key, value, segments),
        lambda: UlyssesCore(AttentionCore(), part)(query, key, value),
        lambda: shard_sequence(documents()[:, :46], mesh, mesh.config),
    ):
        with pytest.raises(ConfigError) as caught:
            attempt()
        said.append(str(caught.value))
    return said


def test_what_a_method_cannot_do_is_refused_by_name():
    window, packed, heads, length = run_ranks(2, refused)[0]
    assert window.startswith("`parallel.cp_method` must be gather or ulysses with windows")
    assert packed.startswith("`parallel.cp_method` must be gather or ulysses with packed documents")
    assert heads.startswith("`parallel.cp` must be a divisor of the 3 heads of a rank")
    assert length.startswith("`data.sequence_len` must be a multiple of 4")
