"""Self-attention of encoders: with relative positions (Transformer-XL, arXiv:1901.02860), with absolute ones, or local.

The score of query i and key j is, with the vector ``r`` of their distance::

    scale ((q_i + u) k_j + (q_i + v) W r_{i - j})          section 3.3 there

The second term is one product with the vectors of all distances; putting its columns in line with the keys copies
nothing: it is a view. Both terms, a mask, softmax and values are one call of PyTorch's fused attention.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anemone.nn.dropout import dropout
from anemone.types import Bias, Hidden, KeepMask


def sinusoids(positions: Tensor, d_model: int) -> Tensor:
    """Returns sines at even and cosines at odd places of the width (arXiv:1706.03762, section 3.5): (P, D).

    Args:
        positions: (P,) float32.
        d_model: width, even.
    """
    rates = torch.exp(torch.arange(0, d_model, 2, device=positions.device) * -(math.log(10_000.0) / d_model))
    angles = positions[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), 2).flatten(1)


def distances(num_frames: int, d_model: int, device: torch.device) -> Tensor:
    """Returns `sinusoids` of all distances of T frames, from T - 1 (far in the past) to 1 - T: (2 T - 1, D).

    Args:
        num_frames: T.
        d_model: width.
        device: where.
    """
    return sinusoids(torch.arange(num_frames - 1, -num_frames, -1, device=device, dtype=torch.float32), d_model)


def aligned(x: Tensor) -> Tensor:
    """Puts scores of distances in line with keys: (B, H, T, 2 T - 1) -> (B, H, T, T), a view.

    Args:
        x: scores of each query with each distance, the farthest past first; contiguous.
    """
    num_frames = x.shape[2]
    if num_frames == 1:
        return x
    width = 2 * num_frames - 2  # a step to the next row and one back
    rows = x.flatten(2).narrow(2, num_frames - 1, num_frames * width)
    return rows.view(*x.shape[:3], width)[..., :num_frames]


def masked_scores(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns what is added to scores: 0 where a key is kept, else so little that it counts for nothing.

    It is finite: a query that sees no key, as padded ones may, then reads something that is a number.

    Args:
        keep: True where a query sees a key.
        dtype: of the scores.
    """
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill_(~keep, torch.finfo(dtype).min / 2)


class SelfAttention(nn.Module):
    """Attention of every frame to every frame, without positions of its own (arXiv:1706.03762, section 3.2.2).

    Args:
        d_model: width of the states.
        num_heads: heads, a divisor of the width.
        dropout: share of the weights dropped.
        bias: whether projections have biases.
    """

    def __init__(self, d_model: int, num_heads: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        assert d_model % num_heads == 0, (d_model, num_heads)
        self.d_model, self.num_heads, self.dropout = d_model, num_heads, dropout
        self.scale = 1 / math.sqrt(d_model // num_heads)
        self.query = nn.Linear(d_model, d_model, bias=bias)
        self.key = nn.Linear(d_model, d_model, bias=bias)
        self.value = nn.Linear(d_model, d_model, bias=bias)
        self.output = nn.Linear(d_model, d_model, bias=bias)

    def split(self, x: Tensor) -> Tensor:
        """Cuts the width into heads: (..., T, D) -> (..., T, H, K)."""
        return x.view(*x.shape[:-1], self.num_heads, -1)

    def forward(
        self, x: Hidden[Tensor, "B T D={self.d_model}"], mask: Bias[Tensor, "C H=1 N T'"] | None = None
    ) -> Hidden[Tensor, "B T D={self.d_model}"]:
        """Returns what each frame reads of all.

        Args:
            x: states.
            mask: added to the scores, see `masked_scores`.
        """
        query, key, value = (self.split(f(x)).transpose(1, 2) for f in (self.query, self.key, self.value))
        out: Tensor = self.output(self.read(query, key, value, mask))
        return out

    def read(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Returns the attention of all heads side by side: (B, H, T, K) -> (B, T, D).

        On a CPU in training PyTorch's fused kernel cannot give the gradient of a bias, and its fallback scales and
        copies more than the formula needs; there it is written out.

        Args:
            query: (B, H, T, K).
            key: (B, H, T', K).
            value: (B, H, T', K).
            bias: added to the scores.
        """
        p = self.dropout if self.training else 0.0
        if (
            bias is not None
            and query.device.type == "cpu"
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
        ):
            (b, h, n, width), m = query.shape, key.shape[2]
            q, k, v = query.reshape(-1, n, width), key.reshape(-1, m, width), value.reshape(-1, m, width)
            scores = torch.baddbmm(bias.expand(b, h, n, m).reshape(-1, n, m), q, k.mT, alpha=self.scale)
            out = (dropout(scores.softmax(2), p, self.training) @ v).view(b, h, n, width)
        else:
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=p, scale=self.scale)
        return out.transpose(1, 2).flatten(2)


class RelativeAttention(SelfAttention):
    """Attention with relative positions: the formula at the top of the file.

    Args:
        d_model: width of the states.
        num_heads: heads, a divisor of the width.
        dropout: share of the weights dropped.
        bias: whether projections have biases.
        biases: ``u`` and ``v``, (H, K) each, where several layers share them; its own by default.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        biases: tuple[nn.Parameter, nn.Parameter] | None = None,
    ) -> None:
        super().__init__(d_model, num_heads, dropout=dropout, bias=bias)
        self.position = nn.Linear(d_model, d_model, bias=False)
        self.content_bias, self.position_bias = biases or new_biases(d_model, num_heads)

    def forward(
        self,
        x: Hidden[Tensor, "B T D={self.d_model}"],
        mask: Bias[Tensor, "C H=1 N T'"] | None = None,
        positions: Hidden[Tensor, "P D={self.d_model}"] | None = None,
    ) -> Hidden[Tensor, "B T D={self.d_model}"]:
        """Returns what each frame reads of all.

        Args:
            x: states.
            mask: added to the scores, see `masked_scores`.
            positions: vectors of all `distances`, computed where they are left out.
        """
        if positions is None:
            positions = distances(x.shape[1], self.d_model, x.device)
        query = self.split(self.query(x))  # (B, T, D) -> (B, T, H, K)
        key, value = (self.split(f(x)).transpose(1, 2) for f in (self.key, self.value))
        far = self.split(self.position(positions) * self.scale).permute(1, 2, 0)  # (P, D) -> (H, K, P)
        bias = aligned((query + self.position_bias).transpose(1, 2) @ far)
        if mask is not None:
            bias = bias + mask
        out: Tensor = self.output(self.read((query + self.content_bias).transpose(1, 2), key, value, bias))
        return out


def new_biases(d_model: int, num_heads: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Returns zeros for ``u`` and ``v``: (H, K) each.

    Args:
        d_model: width.
        num_heads: heads.
    """
    shape = num_heads, d_model // num_heads
    return nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))


class LocalAttention(RelativeAttention):
    """Relative attention to the frames near by (Longformer, arXiv:2004.05150), with memory linear in the length.

    Queries come in blocks as long as the wider side of the window, each with the keys of three blocks. Some frames may
    be global: all read them, once more beside those in their window, and they read all, without positions.

    Args:
        d_model: width of the states.
        num_heads: heads, a divisor of the width.
        past: frames seen before each.
        future: frames seen after each.
        num_global: global frames.
        spacing: frames from a global one to the next; the first frame is the first.
        separate: whether global frames have projections of their own.
        dropout: share of the weights dropped.
        bias: whether projections have biases.
        nemo: in what NeMo computes otherwise: positions where the window's sides differ, and which query is whose where
            several frames are global, which mixes items of a batch.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        past: int,
        future: int,
        num_global: int = 0,
        spacing: int = 1,
        separate: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        nemo: bool = False,
    ) -> None:
        super().__init__(d_model, num_heads, dropout=dropout, bias=bias)
        self.past, self.future, self.num_global, self.spacing, self.nemo = past, future, num_global, spacing, nemo
        self.block = max(past, future)
        assert self.block > 0, (past, future)
        self.separate = separate and num_global > 0
        if separate:
            self.global_query = nn.Linear(d_model, d_model, bias=bias)
            self.global_key = nn.Linear(d_model, d_model, bias=bias)
            self.global_value = nn.Linear(d_model, d_model, bias=bias)

    def columns(self, device: torch.device) -> Tensor:
        """Returns vectors of the distances of a window from ``block`` in the past to ``block`` in the future."""
        steps = torch.arange(self.block, -self.block - 1, -1, device=device, dtype=torch.float32)
        if self.nemo and self.past != self.future:  # the columns of each side start at the outer end of the window
            before = torch.arange(self.past, 0, -1, device=device, dtype=torch.float32)
            after = torch.arange(0, -self.future - 1, -1, device=device, dtype=torch.float32)
            gap = torch.zeros(2 * self.block + 1 - len(before) - len(after), self.d_model, device=device)
            return torch.cat((sinusoids(before, self.d_model), gap, sinusoids(after, self.d_model)))
        return sinusoids(steps, self.d_model)

    def forward(
        self,
        x: Hidden[Tensor, "B T D={self.d_model}"],
        keep: KeepMask[Tensor, "B T C=1"] | None = None,
        positions: Hidden[Tensor, "P D={self.d_model}"] | None = None,
    ) -> Hidden[Tensor, "B T D={self.d_model}"]:
        """Returns what each frame reads of those in its window, and of global ones.

        Args:
            x: states.
            keep: which frames are valid; all by default.
            positions: vectors of the distances in a window, see `columns`; computed where they are left out.
        """
        if positions is None:
            positions = self.columns(x.device)
        frames, w = x.shape[1], self.block
        keep = x.new_ones(x.shape[:2], dtype=torch.bool) if keep is None else keep.squeeze(2)
        num_blocks = (frames + w - 1) // w
        right = num_blocks * w - frames
        query, key, value = (self.split(f(x)) for f in (self.query, self.key, self.value))  # (B, T, H, K)
        blocks = F.pad(query, (0, 0, 0, 0, 0, right)).view(-1, num_blocks, w, *query.shape[2:])
        blocks = blocks.transpose(2, 3)  # (B, N, H, W, K)
        near_key, near_value = (self.triples(part, right) for part in (key, value))  # (B, N, H, 3 W, K)
        near_keep = F.pad(keep, (w, right + w)).unfold(1, 3 * w, w)  # (B, N, 3 W)
        far = self.split(self.position(positions) * self.scale).permute(1, 2, 0)  # (P, D) -> (H, K, P)
        bias = self.skewed((blocks + self.position_bias[:, None]) @ far)  # (B, N, H, W, 3 W)
        seen = near_keep[:, :, None] & self.window(x.device)  # (B, N, W, 3 W)
        bias = bias + masked_scores(seen, bias.dtype).unsqueeze(2)
        if self.num_global:
            parts, places = self.global_parts(x, (query, key, value)), self.global_frames(keep)
            bias, near_key, near_value = self.with_global(parts, places, value, bias, (near_key, near_value))
        states = [part.flatten(0, 1) for part in (blocks + self.content_bias[:, None], near_key, near_value, bias)]
        read = self.read(*states)  # (B N, W, D)
        read = read.view(x.shape[0], -1, self.d_model)[:, :frames]
        if self.num_global:
            read = self.of_global(parts, places, keep, read)
        out: Tensor = self.output(read)
        return out

    def triples(self, x: Tensor, right: int) -> Tensor:
        """Gives each block the one before and the one after it: (B, T, H, K) -> (B, N, H, 3 W, K)."""
        w = self.block
        return F.pad(x, (0, 0, 0, 0, w, right + w)).unfold(1, 3 * w, w).transpose(3, 4)

    def skewed(self, x: Tensor) -> Tensor:
        """Moves the scores of distances under their keys: (..., W, 2 W + 1) -> (..., W, 3 W)."""
        w = self.block
        return F.pad(x, (0, w)).flatten(-2)[..., : 3 * w * w].view(*x.shape[:-1], 3 * w)

    def window(self, device: torch.device) -> Tensor:
        """Which keys of three blocks a query of the middle one sees: (W, 3 W)."""
        w = self.block
        offset = torch.arange(3 * w, device=device) - w - torch.arange(w, device=device)[:, None]
        return (offset >= -self.past) & (offset <= self.future)

    def global_parts(self, x: Tensor, parts: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of global attention, of all frames: (B, T, H, K)."""
        if not self.separate:
            return parts
        return (
            self.split(self.global_query(x)),
            self.split(self.global_key(x)),
            self.split(self.global_value(x)),
        )

    def global_frames(self, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the global frames (G,), and which of them each item has (B, G)."""
        at = torch.arange(self.num_global, device=keep.device) * self.spacing
        inside = at < keep.shape[1]
        at = at.clamp(max=keep.shape[1] - 1)
        return at, keep[:, at] & inside

    def with_global(
        self,
        parts: tuple[Tensor, Tensor, Tensor],
        places: tuple[Tensor, Tensor],
        value: Tensor,
        bias: Tensor,
        near: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Puts the global frames beside the keys and values of every block; all of their scores goes into the bias."""
        (query, key, _), (at, there) = parts, places
        num_blocks, w = near[0].shape[1], self.block
        scores = query.transpose(1, 2) @ key[:, at].permute(0, 2, 3, 1) * self.scale  # (B, H, T, G)
        scores = scores + masked_scores(there, scores.dtype)[:, None, None]
        scores = F.pad(scores, (0, 0, 0, num_blocks * w - query.shape[1]))
        scores = scores.view(*scores.shape[:2], num_blocks, w, -1).transpose(1, 2)  # (B, N, H, W, G)
        chosen = value[:, at].transpose(1, 2).unsqueeze(1)  # (B, T, H, K) -> (B, 1, H, G, K)
        chosen = chosen.expand(-1, num_blocks, -1, -1, -1)
        return (
            torch.cat((bias, scores), 4),
            torch.cat((near[0], torch.zeros_like(chosen)), 3),
            torch.cat((near[1], chosen), 3),
        )

    def of_global(
        self, parts: tuple[Tensor, Tensor, Tensor], places: tuple[Tensor, Tensor], keep: Tensor, read: Tensor
    ) -> Tensor:
        """Replaces what global frames read by what they read of all frames: (B, T, D)."""
        (query, key, value), (at, there) = parts, places
        chosen = query[:, at]  # (B, G, H, K)
        if self.nemo:
            batch, num, heads, width = chosen.shape
            chosen = chosen.transpose(0, 1).reshape(batch, heads, num, width)
        else:
            chosen = chosen.transpose(1, 2)
        mask = masked_scores(keep, chosen.dtype)[:, None, None]
        found = self.read(chosen, key.transpose(1, 2), value.transpose(1, 2), mask)  # (B, G, D)
        number = torch.arange(read.shape[1], device=read.device)
        group = torch.div(number, self.spacing, rounding_mode="floor").clamp(max=self.num_global - 1)
        here = (at[group] == number) & there[:, group]  # (B, T)
        return torch.where(here.unsqueeze(2), found[:, group], read)
