"""Attention in pieces equals the formula, on one rank and round a ring, and messages leave before ranks compute."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from anemone.errors import ConfigError
from anemone.parallel import ring
from anemone.parallel.processes import run_ranks
from anemone.parallel.ring import FLASH, WHOLE, Piece, Ring, blockwise, ring_attention
from anemone.parallel.sequence import sequence_order

SCALE = 0.3


def heads(length: int, *, num: int = 4, shared: int = 2, seed: int = 0) -> list[Tensor]:
    """Query, key, value and a gradient, (B, H, N, K)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, num, length, 16), (2, shared, length, 16), (2, shared, length, 16), (2, num, length, 16)]
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def formula(query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, *, causal: bool) -> list[Tensor]:
    """Output and gradients of query, key and value, in float64."""
    query, key, value = (x.double().requires_grad_() for x in (query, key, value))
    copies = query.shape[1] // key.shape[1]
    scores = SCALE * query @ key.repeat_interleave(copies, 1).mT
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
    out = scores.softmax(-1) @ value.repeat_interleave(copies, 1)
    return [out.detach(), *torch.autograd.grad(out, [query, key, value], gradient.double())]


def error(have: Tensor, want: Tensor) -> float:
    return float((have.detach() - want).norm() / want.norm())


class Recorder(TorchDispatchMode):
    """Names of the operations that send, receive and attend, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        if func.namespace == "c10d" or "flash" in name:
            self.names.append("attend" if "flash" in name else name.strip("_"))
        return func(*args, **(kwargs or {}))


# --- on one rank ------------------------------------------------------------------------------------------------------


def test_pieces_together_are_attention():
    query, key, value, gradient = heads(12)
    want = formula(query, key, value, gradient, causal=True)
    pieces = [
        Piece(slice(0, 5), slice(0, 5), True),
        Piece(slice(5, 12), slice(0, 3), False),
        Piece(slice(5, 12), slice(3, 5), False),
        Piece(slice(5, 12), slice(5, 12), True, slice(0, 1)),
        Piece(slice(5, 12), slice(5, 12), True, slice(1, 2)),
    ]
    given = [x.requires_grad_() for x in (query, key, value)]
    out = blockwise(*given, pieces, SCALE)
    have = [out, *torch.autograd.grad(out, given, gradient)]
    assert max(error(a, b) for a, b in zip(have, want, strict=True)) < 1e-6


def test_merging_is_in_float32_and_steady_for_scores_far_apart():
    query, key, value, _ = (x.bfloat16() for x in heads(64))
    query, key = query * 8, key * 8
    pieces = [Piece(WHOLE, slice(at, at + 4), False) for at in range(0, 64, 4)]
    whole = blockwise(query, key, value, [Piece(WHOLE, WHOLE, False)], SCALE).float()
    many = blockwise(query, key, value, pieces, SCALE)
    want = formula(query, key, value, query, causal=False)[0]
    assert many.dtype == torch.bfloat16
    assert error(many, want) < 1.5 * error(whole, want) + 1e-4


# --- round a ring -----------------------------------------------------------------------------------------------------


def ring_errors(rank: int, length: int, num: int, shared: int) -> list[tuple[str, float]]:
    found = []
    size, group = dist.get_world_size(), dist.group.WORLD
    assert group is not None
    for balance, causal in (("zigzag", True), ("contiguous", True), ("contiguous", False)):
        tensors = heads(length, num=num, shared=shared)
        want = formula(*tensors, causal=causal)
        own = sequence_order(length, size, balance).chunk(size)[rank]
        query, key, value, gradient = (x[:, :, own].requires_grad_() for x in tensors)
        out = ring_attention(query, key, value, Ring(group, balance, causal, SCALE))
        have = [out, *torch.autograd.grad(out, [query, key, value], gradient)]
        names = ("out", "query", "key", "value")
        found += [
            (f"{balance} {causal} {n}", error(a, b[:, :, own])) for n, a, b in zip(names, have, want, strict=True)
        ]
    return found


@pytest.mark.parametrize(("size", "num", "shared"), [(2, 4, 2), (3, 3, 1), (4, 4, 4), (8, 4, 2)])
def test_a_ring_computes_the_attention_and_gradients_of_one_process(size, num, shared):
    for found in run_ranks(size, ring_errors, 48, num, shared):
        assert not [pair for pair in found if not pair[1] < 1e-6]


def half_precision(rank: int) -> list[float]:
    tensors = [x.bfloat16() for x in heads(64)]
    group = dist.group.WORLD
    assert group is not None
    own = sequence_order(64, 4, "zigzag").chunk(4)[rank]
    query, key, value, gradient = (x[:, :, own].requires_grad_() for x in tensors)
    out = ring_attention(query, key, value, Ring(group, "zigzag", True, SCALE))
    have = [out, *torch.autograd.grad(out, [query, key, value], gradient)]
    return [error(a, b[:, :, own]) for a, b in zip(have, formula(*tensors, causal=True), strict=True)]


def test_a_ring_in_bfloat16_stays_within_its_rounding():
    assert max(max(errors) for errors in run_ranks(4, half_precision)) < 0.01


def recorded(rank: int, balance: str) -> tuple[list[str], list[str]]:
    group, wait = dist.group.WORLD, ring._Hop.wait
    assert group is not None
    query, key, value, gradient = (x.requires_grad_() for x in heads(8))
    forward, backward = Recorder(), Recorder()
    recorder = forward

    def waited(hop: Any) -> Tensor:
        recorder.names.append("wait")
        return wait(hop)

    ring._Hop.wait = waited  # in a process of its own
    with forward:
        out = ring_attention(query, key, value, Ring(group, balance, True, SCALE))
    recorder = backward
    with torch.autograd.set_multithreading_enabled(False), backward:
        out.backward(gradient)
    return forward.names, backward.names


def test_a_ring_sends_the_next_keys_before_it_computes():
    hop = ["send", "recv"]
    for forward, backward in run_ranks(4, recorded, "zigzag"):
        assert forward == [*[*hop, "attend", "wait"] * 3, "attend"]
        # sums of gradients leave after a step, and are waited for after the attention of the next
        first = [*hop, "attend", *hop, "wait"]
        between = [*hop, "attend", "wait", *hop, "wait"]
        assert backward == [*first, *between * 2, "attend", "wait", *hop, "wait"]


def test_a_contiguous_ring_leaves_out_keys_that_are_to_come():
    counts = [forward.count("attend") for forward, _ in run_ranks(4, recorded, "contiguous")]
    assert counts == [1, 2, 3, 4]


def test_float32_on_gpus_is_refused_by_name():
    x = torch.zeros(1, 1, 2, 8)
    with pytest.raises(ConfigError, match=r"`precision` must be of 16 bits"):
        FLASH["cuda"].forward(x, x, x, True, SCALE)


def test_operations_of_gpus_take_what_they_are_given():
    query, key = (torch.empty(2, heads, 6, 16, dtype=torch.bfloat16, device="meta") for heads in (4, 2))
    out, lse = FLASH["cuda"].forward(query, key, key, True, SCALE)
    assert (out.shape, lse.shape, lse.dtype) == (query.shape, query.shape[:3], torch.float32)
    gradients = FLASH["cuda"].backward(out, query, key, key, out, lse, True, SCALE)
    assert [x.shape for x in gradients] == [query.shape, key.shape, key.shape]
