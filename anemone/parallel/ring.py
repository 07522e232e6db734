"""Attention piece by piece, exact: each piece gives its output and the logarithm of its sum, and these are merged.

Over one rank's keys that is `blockwise`; where keys and values go round a ring of ranks, each with a part of the
sequence, it is `ring` (arXiv:2310.01889): the next keys are on their way while a rank computes with those it has. All
tensors are laid out (B, H, N, K); keys may have fewer heads. Sums and merges are float32.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from anemone.errors import ConfigError

Balance = Literal["zigzag", "contiguous"]
WHOLE = slice(None)


class Piece(NamedTuple):
    """Queries that meet keys: all of them, or in a triangle from the first of each."""

    queries: slice
    keys: slice
    causal: bool
    rows: slice = WHOLE

    def of_queries(self, x: Tensor) -> Tensor:
        """The piece's part of what lies along the queries, (B, H, N, ...)."""
        return x[self.rows, :, self.queries]

    def of_keys(self, x: Tensor) -> Tensor:
        """The piece's part of what lies along the keys, (B, H', M, K)."""
        return x[self.rows, :, self.keys]


# --- one piece: what a device computes it with ------------------------------------------------------------------------


class Flash(NamedTuple):
    """A device's fused attention of a piece, and its gradient."""

    forward: Callable[[Tensor, Tensor, Tensor, bool, float], tuple[Tensor, Tensor]]
    """(query, key, value, causal, scale) -> output, and log-sum-exp of the scores (B, H, N) float32."""

    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, bool, float], tuple[Tensor, Tensor, Tensor]]
    """(gradient, query, key, value, output, log-sum-exp, causal, scale) -> gradients of query, key and value, where
    output and log-sum-exp are those over all keys."""


def _cpu_forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = op(query, key, value, 0.0, causal, scale=scale)
    return out, lse


def _cpu_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    dq, dk, dv = op(gradient, query, key, value, out, lse.contiguous(), 0.0, causal, scale=scale)
    return dq, dk, dv


def _cuda_forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    if query.dtype not in (torch.float16, torch.bfloat16):
        raise ConfigError(
            f"`precision` must be of 16 bits for ring and gather attention on GPUs, but is {query.dtype} instead. "
            "Use `parallel.cp_method=ulysses`, or bf16-mixed.",
            path="precision",
        )
    op = torch.ops.aten._scaled_dot_product_flash_attention
    out, lse, *_ = op(query, key, value, 0.0, causal, scale=scale)
    return out, lse


def _cuda_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    op = torch.ops.aten._scaled_dot_product_flash_attention_backward
    unused = torch.zeros(2, dtype=torch.uint64, device=query.device)  # the state of a generator, were there dropout
    rest = (None, None, query.shape[2], key.shape[2], 0.0, causal, unused, unused)
    dq, dk, dv = op(gradient, query, key, value, out, lse.contiguous(), *rest, scale=scale)
    return dq, dk, dv


FLASH = {"cpu": Flash(_cpu_forward, _cpu_backward), "cuda": Flash(_cuda_forward, _cuda_backward)}
"""Device -> its operations."""


# --- merging ----------------------------------------------------------------------------------------------------------


class Merged:
    """The output over all keys so far: ``out`` (B, H, N, K) and ``lse`` (B, H, N), float32."""

    def __init__(self, query: Tensor) -> None:
        self.query, self.flash = query, FLASH[query.device.type]
        self.out = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
        self.lse = torch.full(query.shape[:3], -torch.inf, device=query.device)

    def add(self, piece: Piece, key: Tensor, value: Tensor, scale: float) -> None:
        """Takes in the keys of a piece."""
        query, key, value = piece.of_queries(self.query), piece.of_keys(key), piece.of_keys(value)
        part, part_lse = self.flash.forward(query, key, value, piece.causal, scale)
        out, lse = piece.of_queries(self.out), piece.of_queries(self.lse)
        total = torch.logaddexp(lse, part_lse)
        out.mul_((lse - total).exp_().unsqueeze(-1)).add_(part * (part_lse - total).exp_().unsqueeze(-1))
        lse.copy_(total)


class Gradients:
    """What the pieces add to the gradients; that of the queries is summed here, float32."""

    def __init__(self, gradient: Tensor, query: Tensor, out: Tensor, lse: Tensor) -> None:
        self.flash, self.given = FLASH[query.device.type], (gradient, query, out, lse)
        self.query = torch.zeros(query.shape, dtype=torch.float32, device=query.device)

    def add(self, piece: Piece, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Adds to the gradient of the queries; returns those of the piece's keys and values."""
        gradient, query, out, lse = (piece.of_queries(x) for x in self.given)
        key, value = piece.of_keys(key), piece.of_keys(value)
        dq, dk, dv = self.flash.backward(gradient, query, key, value, out, lse, piece.causal, scale)
        piece.of_queries(self.query).add_(dq)
        return dk, dv


# --- over keys that are here ------------------------------------------------------------------------------------------


def blockwise(query: Tensor, key: Tensor, value: Tensor, pieces: Sequence[Piece], scale: float) -> Tensor:
    """Computes attention of the pieces, which together hold all that each query may see.

    Args:
        query: (B, H, N, K).
        key: (B, H', M, K).
        value: (B, H', M, K).
        pieces: which queries meet which keys.
        scale: of the scores.

    Returns:
        (B, H, N, K).
    """
    out: Tensor = _Blockwise.apply(query, key, value, pieces, scale)  # type: ignore[no-untyped-call]
    return out


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, pieces: Sequence[Piece], scale: float) -> Tensor:
        merged = Merged(query)
        for piece in pieces:
            merged.add(piece, key, value, scale)
        out = merged.out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, merged.lse)
        ctx.pieces, ctx.scale = pieces, scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, lse = ctx.saved_tensors
        gradients = Gradients(gradient.contiguous(), query, out, lse)
        dk, dv = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (key, value))
        for piece in ctx.pieces:
            part_k, part_v = gradients.add(piece, key, value, ctx.scale)
            piece.of_keys(dk).add_(part_k)
            piece.of_keys(dv).add_(part_v)
        return gradients.query.to(query.dtype), dk.to(key.dtype), dv.to(value.dtype), None, None


# --- over keys that go round ------------------------------------------------------------------------------------------


class Ring(NamedTuple):
    """Ranks in a circle, each with one part of a sequence: chunks i and 2 n - 1 - i (zigzag), or the i-th of n."""

    group: dist.ProcessGroup
    balance: Balance
    causal: bool
    scale: float

    def meet(self, step: int, length: int) -> Piece | None:
        """What this rank computes in a step, when it has the keys of the rank so many places before it.

        Args:
            step: from 0, its own keys.
            length: tokens of a rank.
        """
        rank, half = self.group.rank(), length // 2
        source = (rank - step) % self.group.size()
        if not self.causal or source == rank:
            return Piece(WHOLE, WHOLE, self.causal)
        if self.balance == "contiguous":
            return Piece(WHOLE, WHOLE, False) if source < rank else None
        return Piece(WHOLE, slice(half), False) if source < rank else Piece(slice(half, None), WHOLE, False)


class _Hop:
    """A tensor on its way to the next rank, and one from the rank before; both start at once."""

    def __init__(self, ring: Ring, tensor: Tensor) -> None:
        group, self.sent, self.got = ring.group, tensor, torch.empty_like(tensor)
        after, before = ((group.rank() + way) % group.size() for way in (1, -1))
        send = dist.P2POp(dist.isend, self.sent, group=group, group_peer=after)
        receive = dist.P2POp(dist.irecv, self.got, group=group, group_peer=before)
        self.works = dist.batch_isend_irecv([send, receive])

    def wait(self) -> Tensor:
        """Returns what came, once it is here."""
        for work in self.works:
            work.wait()
        return self.got


def ring_attention(query: Tensor, key: Tensor, value: Tensor, ring: Ring) -> Tensor:
    """Computes attention over the parts of all ranks; sends n - 1 messages forward and 2 n - 1 backward.

    Args:
        query: (B, H, N, K) of this rank's part.
        key: (B, H', N, K) of this rank's part.
        value: (B, H', N, K) of this rank's part.
        ring: the ranks.

    Returns:
        (B, H, N, K).
    """
    out: Tensor = _RingAttention.apply(query, key, value, ring)  # type: ignore[no-untyped-call]
    return out


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, ring: Ring) -> Tensor:
        merged, here, size = Merged(query), torch.stack([key, value]), ring.group.size()
        for step in range(size):
            hop = _Hop(ring, here) if step + 1 < size else None
            if piece := ring.meet(step, query.shape[2]):
                merged.add(piece, here[0], here[1], ring.scale)
            here = hop.wait() if hop else here
        out = merged.out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, merged.lse)
        ctx.ring = ring
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, out, lse = ctx.saved_tensors
        ring, size, here = ctx.ring, ctx.ring.group.size(), torch.stack([key, value])
        gradients = Gradients(gradient.contiguous(), query, out, lse)
        sums = torch.zeros(here.shape, dtype=torch.float32, device=here.device)  # travel with their keys, all the way
        sums_hop: _Hop | None = None
        for step in range(size):
            hop = _Hop(ring, here) if step + 1 < size else None
            piece = ring.meet(step, query.shape[2])
            parts = gradients.add(piece, here[0], here[1], ring.scale) if piece else ()
            sums = sums_hop.wait() if sums_hop else sums
            for total, part in zip(sums, parts, strict=False):
                assert piece
                piece.of_keys(total).add_(part)
            sums_hop = _Hop(ring, sums)
            here = hop.wait() if hop else here
        dk, dv = sums_hop.wait() if sums_hop else sums
        return gradients.query.to(query.dtype), dk.to(key.dtype), dv.to(value.dtype), None
