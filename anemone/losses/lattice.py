"""The lattice of a transducer: all ways to put U tokens on T frames, summed in one sweep over its anti-diagonals.

A node (t, u) is a frame and how many tokens were written before it. An arc leads on by some frames and at most one
token; blanks write none. A way begins at (0, 0) and ends by a blank at (T, U), just beyond the last frame.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Arc(NamedTuple):
    """One kind of step from a node."""

    frames: int
    """Frames that it advances."""

    tokens: int
    """Tokens that it writes: 1, or 0 for a blank."""

    parts: tuple[int, ...]
    """Which log-probabilities of the node add up to its own: 0 is the next token, then blanks, then durations."""


class Sums(NamedTuple):
    """What is known once all ways are summed."""

    log_probs: Tensor
    """(B,), float64: log of the summed probability of all ways, minus infinity where there is none."""

    occupancies: Tensor | None
    """(K, B, T, U + 1), float64: the share of it that goes through each arc; zeros where there is no way."""


def arcs_of(durations: tuple[int, ...] = (), big_blanks: tuple[int, ...] = ()) -> tuple[Arc, ...]:
    """Lists the arcs of RNN-T, of TDT (``durations``) or of multi-blank transducers (``big_blanks``).

    A blank of TDT advances at least one frame, so the duration 0 has none.
    """
    if durations:
        tokens = [Arc(frames, 1, (0, 2 + n)) for n, frames in enumerate(durations)]
        return (*tokens, *(Arc(frames, 0, (1, 2 + n)) for n, frames in enumerate(durations) if frames))
    return (Arc(0, 1, (0,)), *(Arc(frames, 0, (1 + i,)) for i, frames in enumerate((1, *big_blanks))))


def sum_paths(scores: Tensor, arcs: tuple[Arc, ...], x_len: Tensor, target_len: Tensor, *, occupied: bool) -> Sums:
    """Computes the log-probability of all ways through the lattice, and how much of it each arc carries.

    The forward variables of arXiv:1211.3711, equation 16, and with ``occupied`` the backward variables, equation 18,
    which are the forward variables of the lattice walked from its end: both are one batch of twice the size. In
    float64: a way adds up thousands of scores.

    Args:
        scores: (K, B, T, U + 1), log-probability of each arc at the node where it begins. What lies beyond an utterance
            is never used.
        arcs: the K arcs.
        x_len: (B,) frames.
        target_len: (B,) tokens.
        occupied: whether the shares are wanted.
    """
    scores = _mask(scores.double(), arcs, x_len, target_len)
    _, size, frames, nodes = scores.shape
    reach = max(arc.frames + arc.tokens for arc in arcs)  # diagonals that an arc can cross
    incoming = _incoming(scores, arcs, x_len, target_len, reach, occupied)
    sums = _sweep(incoming, reach)
    row, col = sums.stride(0), sums.stride(1)
    ends = reach + x_len + target_len
    log_probs = sums[ends, torch.arange(size, device=ends.device), 1 + target_len]
    if not occupied:
        return Sums(log_probs, None)
    alpha = sums.as_strided((size, frames, nodes), (col, row, row + 1), reach * row + 1)
    t = x_len[:, None, None] - torch.arange(frames + reach, device=ends.device)[:, None]
    u = target_len[:, None, None] - torch.arange(nodes + 1, device=ends.device)  # one beyond the last, for arcs to it
    batch = torch.arange(size, 2 * size, device=ends.device)[:, None, None]
    beta = sums.flatten()[((reach + t + u) * row + batch * col + 1 + u).where((t >= 0) & (u >= 0), 0)]
    alpha = alpha - log_probs.where(log_probs > -torch.inf, 0)[:, None, None]
    shares = [
        score + alpha + beta[:, arc.frames : arc.frames + frames, arc.tokens : arc.tokens + nodes]
        for arc, score in zip(arcs, scores, strict=True)
    ]
    return Sums(log_probs, torch.stack(shares).exp_())


def _mask(scores: Tensor, arcs: tuple[Arc, ...], x_len: Tensor, target_len: Tensor) -> Tensor:
    """Closes arcs that begin or end beyond their utterance: a token has to leave a frame for the last blank."""
    t = torch.arange(scores.shape[2], device=scores.device)[:, None]
    u = torch.arange(scores.shape[3], device=scores.device)
    frames, tokens = x_len[:, None, None], target_len[:, None, None]
    opened = [(t + arc.frames + arc.tokens <= frames) & (u + arc.tokens <= tokens) & (t < frames) for arc in arcs]
    return scores.where(torch.stack(opened), -torch.inf)


def _incoming(
    scores: Tensor, arcs: tuple[Arc, ...], x_len: Tensor, target_len: Tensor, reach: int, both: bool
) -> Tensor:
    """(N, 2, reach, B or 2 B, U + 1): scores of the arcs into each node of each anti-diagonal.

    The second axis is whether the arc comes from the same u (1) or from the one before (0), the third from how many
    diagonals back, farthest first. The second half of the batch is the lattice walked from its end.
    """
    _, size, frames, nodes = scores.shape
    u = torch.arange(nodes, device=scores.device)
    t = (torch.arange(frames + nodes, device=scores.device)[:, None] - u)[:, None]  # (N, 1, U + 1)
    pad, width = reach + 1, nodes + 1
    padded = F.pad(scores, (1, 0, pad, pad), value=-torch.inf).flatten(1)
    first = torch.arange(size, device=scores.device)[:, None] * (frames + 2 * pad) + pad

    def cells(t: Tensor, u: Tensor) -> Tensor:
        return (first + t.clamp(-1, frames + reach)) * width + 1 + u.clamp(-1)

    forward = cells(t, u)
    backward = cells(x_len[:, None] - t, target_len[:, None] - u) if both else forward
    incoming = scores.new_full((len(t), 2, reach, (1 + both) * size, nodes), -torch.inf)
    for arc, flat in zip(arcs, padded, strict=True):
        into = incoming[:, 1 - arc.tokens, reach - arc.frames - arc.tokens]
        into[:, :size] = flat[forward - (arc.frames * width + arc.tokens)]
        if both:
            into[:, size:] = flat[backward]
    return incoming


def _sweep(incoming: Tensor, reach: int) -> Tensor:
    """(reach + N, B, 1 + U + 1): log of the summed probability of all ways from the start to each node.

    Before the first diagonal and the first column lies what cannot be reached. Spends ``incoming``.
    """
    diagonals, _, _, size, nodes = incoming.shape
    sums = incoming.new_full((reach + diagonals, size, 1 + nodes), -torch.inf)
    sums[reach, :, 1] = 0
    row = sums.stride(0)
    sources = sums.as_strided((diagonals, 2, reach, size, nodes), (row, 1, row, nodes + 1, 1))
    steps = zip(sources.unbind()[1:], incoming.unbind()[1:], sums[reach + 1 :, :, 1:].unbind(), strict=True)
    for source, paths, total in steps:
        paths += source
        if reach == 1:
            torch.logaddexp(paths[0, 0], paths[1, 0], out=total)
        else:
            torch.logsumexp(paths, (0, 1), out=total)
    return sums
