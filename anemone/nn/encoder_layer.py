"""Layers of a Transformer encoder with learned biases (arXiv:1706.03762), normalised before or after each part."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.nn.attention import attention
from anemone.types import Bias, Hidden


class MultiHeadAttention(nn.Module):
    """Attention with a projection for queries, keys, values and output each (arXiv:1706.03762, section 3.2.2).

    Args:
        d_model: width of the states.
        num_heads: heads, a divisor of the width.
        key_bias: whether the projection of the keys has a bias.
        dropout: share of what is read that is dropped, frame by frame.
    """

    def __init__(self, d_model: int, num_heads: int, *, key_bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.d_model, self.num_heads, self.dropout = d_model, num_heads, dropout
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model, bias=key_bias)
        self.value = nn.Linear(d_model, d_model)
        self.output = nn.Linear(d_model, d_model)

    def forward(
        self, x: Hidden[Tensor, "B N D={self.d_model}"], bias: Bias[Tensor, "B H N' N'"] | None = None
    ) -> Hidden[Tensor, "B N D={self.d_model}"]:
        """Returns what each state reads of all.

        Args:
            x: states.
            bias: added to the scores, see `hidden_keys`.
        """
        query, key, value = (f(x).unflatten(-1, (self.num_heads, -1)) for f in (self.query, self.key, self.value))
        read = attention(query, key, value, causal=False, bias=bias)
        out: Tensor = self.output(F.dropout(read.flatten(2), self.dropout, self.training))  # (B, N, H, K) -> (B, N, D)
        return out


class FeedForward(nn.Module):
    """Two matrices with the GELU between them (arXiv:1606.08415).

    Args:
        d_model: width of the states.
        d_ff: width inside.
        dropout: share of activations dropped inside.
    """

    def __init__(self, d_model: int, d_ff: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.d_model, self.dropout = d_model, dropout
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)

    def forward(self, x: Hidden[Tensor, "B N D={self.d_model}"]) -> Hidden[Tensor, "B N D={self.d_model}"]:
        """Returns what is added to the states.

        Args:
            x: states.
        """
        out: Tensor = self.down(F.dropout(F.gelu(self.up(x)), self.dropout, self.training))
        return out


class TransformerLayer(nn.Module):
    """Attention and a feed-forward part, each added to the states.

    Args:
        d_model: width of the states.
        num_heads: heads of attention.
        d_ff: width inside the feed-forward part.
        pre_norm: normalise what goes into each part (arXiv:2002.04745), or the sum after it.
        key_bias: whether the projection of the keys has a bias.
        dropout: share of what each part adds that is dropped.
        dropout_attention: share of what is read that is dropped.
        dropout_ffn: share of activations dropped inside the feed-forward part.
        norm_eps: what normalisation adds to the variance.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        pre_norm: bool = True,
        key_bias: bool = True,
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
        dropout_ffn: float = 0.0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.d_model, self.pre_norm, self.dropout = d_model, pre_norm, dropout
        self.attention_norm = nn.LayerNorm(d_model, norm_eps)
        self.attention = MultiHeadAttention(d_model, num_heads, key_bias=key_bias, dropout=dropout_attention)
        self.ffn_norm = nn.LayerNorm(d_model, norm_eps)
        self.ffn = FeedForward(d_model, d_ff, dropout=dropout_ffn)

    def forward(
        self, x: Hidden[Tensor, "B N D={self.d_model}"], bias: Bias[Tensor, "B H N' N'"] | None = None
    ) -> Hidden[Tensor, "B N D={self.d_model}"]:
        """Returns the states after the layer.

        Args:
            x: states.
            bias: added to the scores of attention, see `hidden_keys`.
        """
        if self.pre_norm:
            x = x + self._dropped(self.attention(self.attention_norm(x), bias))
            return x + self._dropped(self.ffn(self.ffn_norm(x)))
        x = self.attention_norm(x + self._dropped(self.attention(x, bias)))
        out: Tensor = self.ffn_norm(x + self._dropped(self.ffn(x)))
        return out

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def hidden_keys(x_len: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """What to add to scores so that nothing beyond each length is read: (B, 1, 1, size), 0 or minus infinity.

    Of an empty item the first frame is read, as something must be.

    Args:
        x_len: (B,).
        size: number of keys.
        dtype: of the scores.
    """
    beyond = torch.arange(size, device=x_len.device) >= x_len.clamp(min=1)[:, None, None, None]
    return torch.zeros(beyond.shape, dtype=dtype, device=x_len.device).masked_fill(beyond, -torch.inf)
