"""The layer of a Conformer (arXiv:2005.08100, section 2) on (B, T, D)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anemone.nn.depthwise import depthwise_conv
from anemone.nn.dropout import dropout
from anemone.nn.relative import LocalAttention, SelfAttention
from anemone.types import Bias, Hidden, KeepMask

Norm = Literal["batch", "layer", "group", "instance", "affine"]


class FeedForward(nn.Module):
    """Two matrices with the SiLU between them.

    Args:
        d_model: width.
        d_ff: width inside.
        dropout: share dropped inside.
        bias: whether matrices have biases.
    """

    def __init__(self, d_model: int, d_ff: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.d_model, self.dropout = d_model, dropout
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Hidden[Tensor, "B T D={self.d_model}"]) -> Hidden[Tensor, "B T D={self.d_model}"]:
        """Returns what is added to the states.

        Args:
            x: normalised states.
        """
        out: Tensor = self.down(dropout(F.silu(self.up(x)), self.dropout, self.training))
        return out


class ConvNorm(nn.Module):
    """Normalisation inside the convolution: over the batch, the width, groups of channels, or each channel's frames.

    Args:
        d_model: width.
        kind: "batch", "layer", "group", "instance" (without weights), or "affine": only weights.
        num_groups: of "group".
        padded: whether "group" and "instance" count padded frames, as NeMo does; "batch" always does, as models are
            trained so.
    """

    def __init__(self, d_model: int, *, kind: Norm = "batch", num_groups: int = 1, padded: bool = False) -> None:
        super().__init__()
        self.d_model, self.kind, self.padded = d_model, kind, padded
        self.num_groups = d_model if kind == "instance" else num_groups
        self.norm: nn.Module | None = None
        if kind in ("batch", "layer"):
            self.norm = nn.BatchNorm1d(d_model) if kind == "batch" else nn.LayerNorm(d_model)
        if kind in ("group", "affine"):
            self.weight, self.bias = nn.Parameter(torch.ones(d_model)), nn.Parameter(torch.zeros(d_model))

    def forward(
        self, x: Hidden[Tensor, "B T D={self.d_model}"], keep: KeepMask[Tensor, "B T C=1"] | None = None
    ) -> Hidden[Tensor, "B T D={self.d_model}"]:
        """Returns normalised states.

        Args:
            x: states.
            keep: which frames are valid; all by default.
        """
        if self.kind == "batch":
            assert self.norm is not None
            y: Tensor = self.norm(x.flatten(0, 1))  # (B, T, D) -> (B T, D), where it is quickest
            return y.view(x.shape)
        if self.norm is not None:
            y = self.norm(x)
            return y
        if self.kind != "affine":
            x = normalised(x, self.num_groups, None if self.padded else keep)
        return x if self.kind == "instance" else x * self.weight + self.bias


def normalised(x: Tensor, num_groups: int, keep: Tensor | None, eps: float = 1e-5) -> Tensor:
    """Returns states of mean 0 and variance 1 over the valid frames of each item and group of channels: (B, T, D).

    Args:
        x: states.
        num_groups: groups of channels.
        keep: (B, T, 1), valid frames; all by default.
        eps: added to the variance.
    """
    y = x.float().view(*x.shape[:2], num_groups, -1)  # (B, T, D) -> (B, T, G, D / G)
    weight = torch.ones_like(y[:, :, :1, :1]) if keep is None else keep.unsqueeze(3).to(y.dtype)
    count = weight.sum(1, keepdim=True).clamp(min=1) * y.shape[3]
    mean = (y * weight).sum((1, 3), keepdim=True) / count
    y = y - mean
    variance = (y.square() * weight).sum((1, 3), keepdim=True) / count
    return (y * (variance + eps).rsqrt()).flatten(2).to(x.dtype)


class ConvPart(nn.Module):
    """Pointwise convolution and GLU, depthwise convolution, normalisation, SiLU, pointwise convolution.

    Args:
        norm: the normalisation.
        kernel: frames that the depthwise convolution spans, odd.
        past: how many of them lie before the frame; ``kernel - 1`` makes it causal.
        bias: whether convolutions have biases.
    """

    def __init__(self, norm: ConvNorm, *, kernel: int, past: int, bias: bool = True) -> None:
        super().__init__()
        assert kernel % 2 == 1 and 0 <= past < kernel, (kernel, past)
        d_model = norm.d_model
        self.d_model, self.look_ahead = d_model, kernel - 1 - past
        self.up = nn.Linear(d_model, 2 * d_model, bias=bias)
        self.weight = nn.Parameter(torch.empty(d_model, 1, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.bias = nn.Parameter(torch.empty(d_model).uniform_(-(kernel**-0.5), kernel**-0.5)) if bias else None
        self.norm = norm
        self.down = nn.Linear(d_model, d_model, bias=bias)

    def forward(
        self, x: Hidden[Tensor, "B T D={self.d_model}"], keep: KeepMask[Tensor, "B T C=1"] | None = None
    ) -> Hidden[Tensor, "B T D={self.d_model}"]:
        """Returns what is added to the states; convolutions see zeros beyond the valid frames.

        Args:
            x: normalised states.
            keep: which frames are valid; all by default.
        """
        y = F.glu(self.up(x))
        if keep is not None:
            y = y * keep
        y = depthwise_conv(y, self.weight, look_ahead=self.look_ahead)
        if self.bias is not None:
            y = y + self.bias
        out: Tensor = self.down(F.silu(self.norm(y, keep)))
        return out


class ConformerLayer(nn.Module):
    """Half a feed-forward part, attention, convolution, half a feed-forward part, layer normalisation.

    Args:
        attention: one of `anemone.nn.relative`.
        norm: normalisation inside the convolution.
        d_ff: width inside the feed-forward parts.
        kernel: frames that the depthwise convolution spans, odd.
        past: how many of them lie before the frame.
        dropout: share dropped of what each part adds, and inside the feed-forward parts.
        bias: whether matrices and convolutions have biases.
    """

    def __init__(
        self,
        attention: SelfAttention,
        norm: ConvNorm,
        *,
        d_ff: int,
        kernel: int,
        past: int,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        d_model = attention.d_model
        self.d_model, self.dropout = d_model, dropout
        self.ff1_norm = nn.LayerNorm(d_model)
        self.ff1 = FeedForward(d_model, d_ff, dropout=dropout, bias=bias)
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = attention
        self.conv_norm = nn.LayerNorm(d_model)
        self.conv = ConvPart(norm, kernel=kernel, past=past, bias=bias)
        self.ff2_norm = nn.LayerNorm(d_model)
        self.ff2 = FeedForward(d_model, d_ff, dropout=dropout, bias=bias)
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self,
        x: Hidden[Tensor, "B T D={self.d_model}"],
        keep: KeepMask[Tensor, "B T C=1"] | None = None,
        mask: Bias[Tensor, "C' H=1 N N'"] | None = None,
        positions: Hidden[Tensor, "P D={self.d_model}"] | None = None,
    ) -> Hidden[Tensor, "B T D={self.d_model}"]:
        """Returns the states after the layer; what stands at padded frames means nothing.

        Args:
            x: states.
            keep: which frames are valid; all by default.
            mask: added to the scores of attention, but for local attention, which takes ``keep``.
            positions: vectors of distances, where the attention takes them.
        """
        x = self.add(x, self.ff1(self.ff1_norm(x)), 0.5)
        sees = keep if isinstance(self.attention, LocalAttention) else mask
        seen = (sees,) if positions is None else (sees, positions)
        x = self.add(x, self.attention(self.attention_norm(x), *seen))
        x = self.add(x, self.conv(self.conv_norm(x), keep))
        x = self.add(x, self.ff2(self.ff2_norm(x)), 0.5)
        out: Tensor = self.norm(x)
        return out

    def add(self, x: Tensor, y: Tensor, factor: float = 1.0) -> Tensor:
        """Adds what a part gives, after dropout, to the states."""
        return torch.add(x, dropout(y, self.dropout, self.training), alpha=factor)
