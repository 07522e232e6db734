"""Scaled dot-product attention (arXiv:1706.03762, section 3.2.1), in one function with several kernels.

    sdpa     PyTorch's fused kernels; documents and windows become a mask
    packed   the same, called for one document, or one stretch of a window, at a time: no mask, memory linear in length
    flex     PyTorch's FlexAttention: documents and windows skip blocks; compiled, and for GPUs (no backward on CPUs)
    varlen   PyTorch's attention over packed sequences, for GPUs in half precision
    blocked  the plain formula for some queries at a time: for short causal rows in bfloat16 on a CPU

Heads may share keys and values (grouped-query attention, arXiv:2305.13245); no kernel copies them for it.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.config import must
from anemone.nn.blocked_attention import LONGEST, blocked_attention
from anemone.types import Hidden, Segments

Kernel = Literal["auto", "sdpa", "packed", "flex", "varlen", "blocked"]


class Pattern(NamedTuple):
    """Which keys a query sees, and how scores are scaled."""

    causal: bool
    window: int | None
    scale: float | None


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = True,
    window: int | None = None,
    segments: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    kernel: Kernel = "auto",
) -> Tensor:
    """Computes ``softmax(scale * query key^T + bias) value`` over the keys that each query may see.

    Where there are more keys than queries, the queries stand at the end: query i is at position ``M - N + i``.

    Args:
        query: (B, N, H, K).
        key: (B, M, H', K), where H' divides H: head h uses head ``h // (H / H')`` of the keys.
        value: (B, M, H', K).
        causal: whether a query sees only keys at its own position and before.
        window: a query sees only the last ``window`` of these keys, its own among them; needs ``causal``.
        segments: (B, N), number of each token's document, where several are packed into a row one after the other; a
            token sees only its own document.
        bias: (1 or B, 1 or H, N, M), added to the scores.
        scale: 1 / sqrt(K) by default.
        kernel: which kernel computes it; by default the best one for the device.

    Returns:
        (B, N, H, K).

    Raises:
        ConfigError: shapes or settings that do not go together.
    """
    _check(query, key, causal, window, segments)
    pattern = Pattern(causal, None if window is None or window >= key.shape[1] else window, scale)
    if kernel == "auto":
        kernel = _best(query, key, pattern, segments, bias)
    return KERNELS[kernel](query, key, value, pattern, segments, bias)


def _check(query: Tensor, key: Tensor, causal: bool, window: int | None, segments: Tensor | None) -> None:
    n, m, heads, shared = query.shape[1], key.shape[1], query.shape[2], key.shape[2]
    must(heads % shared == 0, "key", f"of a number of heads that divides the {heads} of the queries", value=shared)
    must(not causal or n <= m, "query", f"no longer than the keys, {m}", value=n)
    must(window is None or (causal and window >= 1), "window", "1 or more, and only where `causal`", value=window)
    must(segments is None or n == m, "segments", "left out where queries and keys differ in length", value=(n, m))


def _best(query: Tensor, key: Tensor, pattern: Pattern, segments: Tensor | None, bias: Tensor | None) -> Kernel:
    if bias is not None or (segments is None and pattern.window is None):
        short = pattern.causal and 1 < query.shape[1] == key.shape[1] <= LONGEST and bias is None
        on_cpu = type(query) is Tensor and query.device.type == "cpu" and query.dtype == torch.bfloat16
        return "blocked" if short and on_cpu else "sdpa"
    if query.device.type != "cuda":
        return "packed"
    return "varlen" if query.dtype in (torch.float16, torch.bfloat16) else "flex"


# --- kernels ----------------------------------------------------------------------------------------------------------


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, pattern: Pattern) -> Tensor:
    """One call of PyTorch's kernel, causal where there is no mask."""
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2),  # (B, N, H, K) -> (B, H, N, K)
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=pattern.causal and mask is None and query.shape[1] > 1,
        scale=pattern.scale,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return out.transpose(1, 2)  # (B, H, N, K) -> (B, N, H, K)


def visible(n: int, m: int, pattern: Pattern, device: torch.device | None = None) -> Tensor:
    """Which of ``m`` keys each of the last ``n`` positions sees: (n, m), bool."""
    distance = torch.arange(m - n, m, device=device)[:, None] - torch.arange(m, device=device)
    keep = distance >= 0 if pattern.causal else torch.ones_like(distance, dtype=torch.bool)
    return keep if pattern.window is None else keep & (distance < pattern.window)


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, segments: Tensor | None, bias: Tensor | None
) -> Tensor:
    n, m = query.shape[1], key.shape[1]
    plain = pattern.window is None and (not pattern.causal or n == 1 or n == m)
    if plain and segments is None and bias is None:
        return _fused(query, key, value, None, pattern if n == m else pattern._replace(causal=False))
    keep = visible(n, m, pattern, query.device)
    if segments is not None:
        keep = keep & (segments[:, None, :, None] == segments[:, None, None, :])
    mask = keep if bias is None else bias.to(query.dtype).masked_fill(~keep, -torch.inf)
    return _fused(query, key, value, mask, pattern)


def _packed(
    query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, segments: Tensor | None, bias: Tensor | None
) -> Tensor:
    must(bias is None, "bias", 'left out where `kernel` is "packed"', value="a tensor")
    if segments is None:
        return _document(query, key, value, pattern)
    lens = document_lens(segments)
    flat = [x.reshape(1, -1, *x.shape[2:]) for x in (query, key, value)]  # (B, N, H, K) -> (1, B * N, H, K)
    pieces = [torch.split_with_sizes(x, lens, 1) for x in flat]
    outs = [_document(q, k, v, pattern) for q, k, v in zip(*pieces, strict=True)]
    return torch.cat(outs, 1).view(query.shape)


def document_lens(segments: Tensor) -> list[int]:
    """Lengths of all documents, row after row: a document ends where the number changes and where a row ends.

    Args:
        segments: (B, N).
    """
    ends = torch.ones_like(segments, dtype=torch.bool)
    torch.ne(segments[:, 1:], segments[:, :-1], out=ends[:, :-1])
    at = ends.flatten().nonzero().flatten()
    lens: list[int] = torch.diff(at, prepend=at.new_full((1,), -1)).tolist()
    return lens


def _document(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern) -> Tensor:
    """Attention in one document; under a window, queries come in stretches of its length with the keys they see."""
    n, m, window = query.shape[1], key.shape[1], pattern.window
    if window is None or window >= m:
        return _sdpa(query, key, value, pattern._replace(window=None), None, None)
    outs = []
    for start in range(0, n, max(window, STRETCH)):
        stop = min(n, start + max(window, STRETCH))
        keys = slice(max(0, m - n + start - window + 1), m - n + stop)
        outs.append(_sdpa(query[:, start:stop], key[:, keys], value[:, keys], pattern, None, None))
    return torch.cat(outs, 1)


STRETCH = 128  # queries, at least, in one call under a window


def _blocked(
    query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, segments: Tensor | None, bias: Tensor | None
) -> Tensor:
    fits = pattern.causal and pattern.window is None and segments is None and bias is None
    rule = 'other than "blocked" unless the pattern is causal, over one document without window or bias'
    must(fits and query.shape[1] == key.shape[1], "kernel", rule, value="blocked")
    (b, n, heads, width), shared = query.shape, key.shape[2]
    out = blocked_attention(
        query.reshape(b, n, shared, -1, width)
        .permute(0, 2, 3, 1, 4)
        .flatten(0, 1),  # (B, N, H, K) -> (B * H', G, N, K)
        key.transpose(1, 2).flatten(0, 1),  # (B, N, H', K) -> (B * H', N, K)
        value.transpose(1, 2).flatten(0, 1),
        1 / math.sqrt(width) if pattern.scale is None else pattern.scale,
    )
    whole: Tensor = out.view(b, heads, n, width).transpose(1, 2)
    return whole


def _flex(
    query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, segments: Tensor | None, bias: Tensor | None
) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask

    (b, n, heads, _), m = query.shape, key.shape[1]

    def keep(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = q + (m - n) - k
        kept = distance >= 0 if pattern.causal else distance == distance
        if pattern.window is not None:
            kept = kept & (distance < pattern.window)
        return kept if segments is None else kept & (segments[batch, q] == segments[batch, k])

    def biased(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        assert bias is not None
        wide = bias.expand(b, heads, n, m)
        return score + wide[batch, head, q, k]

    blocks = create_block_mask(keep, b if segments is not None else None, None, n, m, device=str(query.device))
    out: Tensor = _compiled_flex()(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        score_mod=None if bias is None else biased,
        block_mask=blocks,
        scale=pattern.scale,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return out.transpose(1, 2)


@cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, segments: Tensor | None, bias: Tensor | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    must(bias is None, "bias", 'left out where `kernel` is "varlen"', value="a tensor")
    b, n, m = query.shape[0], query.shape[1], key.shape[1]
    lens = document_lens(segments) if segments is not None else [n] * b
    of_keys = lens if segments is not None else [m] * b
    window = -1 if pattern.window is None else pattern.window - 1
    out: Any = varlen_attn(
        query.flatten(0, 1),  # (B, N, H, K) -> (B * N, H, K)
        key.flatten(0, 1),
        value.flatten(0, 1),
        _starts(lens, query.device),
        _starts(of_keys, query.device),
        max(lens),
        max(of_keys),
        scale=pattern.scale,
        window_size=(window, 0 if pattern.causal else -1),
        enable_gqa=query.shape[2] != key.shape[2],
    )
    whole: Tensor = out.view(query.shape)
    return whole


def _starts(lens: list[int], device: torch.device) -> Tensor:
    return F.pad(torch.tensor(lens, dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32), (1, 0))


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, Pattern, Tensor | None, Tensor | None], Tensor]] = {
    "sdpa": _sdpa,
    "packed": _packed,
    "flex": _flex,
    "varlen": _varlen,
    "blocked": _blocked,
}


# --- a module ---------------------------------------------------------------------------------------------------------


class AttentionCore(nn.Module):
    """`attention` as a module without parameters: the one place of a network where tokens meet.

    Splitting the tokens of a text over processes, or keeping those of the past, means to put another module here.

    Args:
        causal: whether a token sees only those before it, and itself.
        window: how many of these it sees; all by default.
        scale: of the scores; 1 / sqrt(K) by default.
        kernel: see `attention`.
    """

    def __init__(
        self, *, causal: bool = True, window: int | None = None, scale: float | None = None, kernel: Kernel = "auto"
    ) -> None:
        super().__init__()
        assert kernel in get_args(Kernel), kernel
        self.causal, self.window, self.scale, self.kernel = causal, window, scale, kernel

    def forward(
        self,
        query: Hidden[Tensor, "B N H K"],
        key: Hidden[Tensor, "B N' H' K"],
        value: Hidden[Tensor, "B N' H' K"],
        segments: Segments[Tensor, "B N"] | None = None,
    ) -> Hidden[Tensor, "B N H K"]:
        """Returns what each head of each token reads.

        Args:
            query: what tokens ask for.
            key: what tokens answer to.
            value: what tokens tell.
            segments: number of each token's document.
        """
        return attention(
            query,
            key,
            value,
            causal=self.causal,
            window=self.window,
            segments=segments,
            scale=self.scale,
            kernel=self.kernel,
        )

    def extra_repr(self) -> str:
        """Settings, as `print(module)` shows them."""
        return f"causal={self.causal}, window={self.window}, scale={self.scale}, kernel={self.kernel!r}"
