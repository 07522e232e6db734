"""Causal attention for short rows on a CPU: the plain formula for a block of queries at a time.

PyTorch's fused kernel for CPUs also tiles the keys, with running sums, which pays off in long rows. In short ones a
block of queries and all keys before its end fit into the cache: products and softmax are then single calls, and the
scores, which the backward computes again, are never kept. They are float32 whatever the type of queries and keys.

It is one operation to PyTorch (``anemone::blocked_attention``), so that recomputation keeps or repeats it as a whole.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

LONGEST = 1024
"""Tokens of a row up to which it is no slower than PyTorch's kernel."""

QUERIES = 64
"""Queries in a block."""

SCORES = 1 << 20
"""Scores that are in work at a time; over more, heads come one after the other."""


@torch.library.custom_op("anemone::blocked_attention", mutates_args=())
def blocked_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Computes ``softmax(scale * query key^T) value``, where a query sees its own position and those before.

    Args:
        query: (P, G, N, K): P pairs of a row and a head of keys, G heads of queries to each.
        key: (P, N, K).
        value: (P, N, K).
        scale: of the scores.

    Returns:
        (P, G, N, K).
    """
    out = torch.empty_like(query)
    upright = key.transpose(1, 2)
    with torch.autocast("cpu", enabled=False):
        for p, n in _blocks(query):
            probs = _probs(query[p, :, n], upright[p, :, : n.stop], scale)
            read = torch.bmm(probs.to(value.dtype), value[p, : n.stop])
            out[p, :, n] = read.view(out[p, :, n].shape)
    return out


@torch.library.custom_op("anemone::blocked_attention_backward", mutates_args=())
def _backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    dtype, wide = query.dtype, torch.promote_types(query.dtype, torch.float32)
    to_query = torch.empty_like(query)
    to_key, to_value = torch.zeros_like(key, dtype=wide), torch.zeros_like(value, dtype=wide)
    upright, value = key.transpose(1, 2), value.transpose(1, 2).to(wide)
    scaled = key * scale
    for p, n in _blocks(query):
        q, g = query[p, :, n].flatten(1, 2), grad[p, :, n].flatten(1, 2)  # (P, G, N, K) -> (P, G * N, K)
        probs = _probs(query[p, :, n], upright[p, :, : n.stop], scale)
        to_value[p, : n.stop] += torch.bmm(probs.to(dtype).transpose(1, 2), g)
        scores = torch._softmax_backward_data(torch.bmm(g.to(wide), value[p, :, : n.stop]), probs, -1, wide).to(dtype)
        to_query[p, :, n] = torch.bmm(scores, scaled[p, : n.stop]).view(query[p, :, n].shape)
        to_key[p, : n.stop] += torch.bmm(scores.transpose(1, 2), q)
    return to_query, to_key.mul_(scale).to(dtype), to_value.to(dtype)


def _blocks(query: Tensor) -> Iterator[tuple[slice, slice]]:
    """Which pairs and which queries are in work together."""
    pairs, group, length = query.shape[:3]
    for start in range(0, length, QUERIES):
        stop = min(length, start + QUERIES)
        many = max(1, SCORES // (group * QUERIES * stop))
        yield from ((slice(first, first + many), slice(start, stop)) for first in range(0, pairs, many))


def _probs(query: Tensor, upright: Tensor, scale: float) -> Tensor:
    """Probabilities of the keys (P, K, M) for queries (P, G, N, K) at the end: (P, G * N, M), float32 at least."""
    group, n = query.shape[1:3]
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = torch.bmm(query.flatten(1, 2).to(wide).mul(scale), upright.to(wide))  # (P, G * N, M)
    future = torch.full((n, n), -math.inf, dtype=wide).triu_(1)
    scores.view(-1, group, n, scores.shape[-1])[..., -n:] += future
    return scores.softmax(-1)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return (*_backward(grad, *ctx.saved_tensors, ctx.scale), None)


blocked_attention.register_fake(lambda query, key, value, scale: torch.empty_like(query))
_backward.register_fake(lambda grad, query, key, value, scale: tuple(map(torch.empty_like, (query, key, value))))
blocked_attention.register_autograd(_differentiate, setup_context=_keep)
