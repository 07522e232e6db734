"""Transformer blocks with learned biases (arXiv:1706.03762): self-attention, attention to a memory, feed-forward.

The normalisation stands before each part (arXiv:2002.04745) or after it. Attention is computed by PyTorch's fused
kernels, from keys and values that may be kept from one step of decoding to the next.
"""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.nn.activations import ACTIVATIONS
from anemone.types import Hidden, KeepMask

Activation = Literal["relu", "gelu"]
Part = Callable[[Tensor], Tensor]


class KeysValues(NamedTuple):
    """Keys and values of a layer."""

    keys: Hidden[Tensor, "B H N' K"]
    values: Hidden[Tensor, "B H N' K"]


class KeyedAttention(nn.Module):
    """Scaled dot-product attention with heads, to keys and values that were projected before.

    Args:
        d_model: width.
        num_heads: number of heads; divides the width.
        key_bias: whether the map to keys has a bias; the scores of all keys shift alike by it.
        dropout_scores: of the attention weights.
        dropout: of what comes out.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        key_bias: bool = True,
        dropout_scores: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.d_model, self.num_heads, self.dropout_scores = d_model, num_heads, dropout_scores
        self.query, self.key = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model, bias=key_bias)
        self.value, self.output = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def project(self, x: Tensor) -> KeysValues:
        """Returns the keys and values of states (B, M, D)."""
        return KeysValues(self._heads(self.key(x)), self._heads(self.value(x)))

    def forward(
        self,
        x: Hidden[Tensor, "B N D={self.d_model}"],
        keys: Hidden[Tensor, "B H={self.num_heads} N' K"],
        values: Hidden[Tensor, "B H={self.num_heads} N' K"],
        keep: KeepMask[Tensor, "B H' N'' N'"] | None = None,
        causal: bool = False,
    ) -> Hidden[Tensor, "B N D={self.d_model}"]:
        """Returns what the states find.

        Args:
            x: states that ask.
            keys: see `project`.
            values: see `project`.
            keep: True where a state sees a key; its second and third axis may be 1.
            causal: whether state i sees only keys up to i; not together with ``keep``.
        """
        found = F.scaled_dot_product_attention(
            self._heads(self.query(x)),
            keys,
            values,
            attn_mask=keep,
            is_causal=causal,
            dropout_p=self.dropout_scores if self.training else 0.0,
        )
        out: Tensor = self.dropout(self.output(found.transpose(1, 2).flatten(2)))  # (B, H, N, K) -> (B, N, D)
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)  # (B, N, D) -> (B, H, N, K)


class FeedForward(nn.Module):
    """Two linear maps with an activation between them.

    Args:
        d_model: width.
        d_hidden: width between the maps.
        activation: between the maps.
        dropout: of what comes out.
        dropout_hidden: of what stands between the maps.
    """

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        *,
        activation: Activation,
        dropout: float = 0.0,
        dropout_hidden: float = 0.0,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model)
        self.act, self.dropout = ACTIVATIONS[activation], nn.Dropout(dropout)
        self.dropout_hidden = dropout_hidden

    def forward(self, x: Hidden[Tensor, "B N D={self.d_model}"]) -> Hidden[Tensor, "B N D={self.d_model}"]:
        """Returns ``down(activation(up(x)))``."""
        hidden = F.dropout(self.act(self.up(x)), self.dropout_hidden, self.training)
        out: Tensor = self.dropout(self.down(hidden))
        return out


class TransformerBlock(nn.Module):
    """Self-attention, attention to a memory where there is one, and a feed-forward network, each with a residual.

    Args:
        d_model: width.
        num_heads: of both attentions.
        d_hidden: width inside the feed-forward network.
        activation: of the feed-forward network.
        pre_norm: whether each part sees normalised states, or its sum with the residual is normalised.
        memory: whether it attends to a memory.
        dropout: of the feed-forward network's output.
        dropout_attention: of the attentions' output.
        dropout_scores: of the attention weights.
        dropout_hidden: inside the feed-forward network.
        key_bias: whether the attentions' maps to keys have biases.
        norm_eps: what normalisation adds to the variance.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_hidden: int,
        *,
        activation: Activation,
        pre_norm: bool,
        memory: bool,
        dropout: float = 0.0,
        dropout_attention: float = 0.0,
        dropout_scores: float = 0.0,
        dropout_hidden: float = 0.0,
        key_bias: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.d_model, self.pre_norm, self.memory = d_model, pre_norm, memory
        drops = {"dropout": dropout_attention, "dropout_scores": dropout_scores}
        self.self_norm = nn.LayerNorm(d_model, norm_eps)
        self.self_attention = KeyedAttention(d_model, num_heads, key_bias=key_bias, **drops)
        if memory:
            self.memory_norm = nn.LayerNorm(d_model, norm_eps)
            self.memory_attention = KeyedAttention(d_model, num_heads, key_bias=key_bias, **drops)
        self.feed_norm = nn.LayerNorm(d_model, norm_eps)
        self.feed_forward = FeedForward(
            d_model, d_hidden, activation=activation, dropout=dropout, dropout_hidden=dropout_hidden
        )

    def forward(
        self,
        x: Hidden[Tensor, "B N D={self.d_model}"],
        keep: KeepMask[Tensor, "B H' N'' N'"] | None = None,
        causal: bool = False,
        memory: KeysValues | None = None,
        memory_keep: KeepMask[Tensor, "B H' N'' T"] | None = None,
        own: KeysValues | None = None,
    ) -> Hidden[Tensor, "B N D={self.d_model}"]:
        """Returns the states after the block.

        Args:
            x: states.
            keep: which keys each state sees in self-attention.
            causal: whether a state sees only those up to itself.
            memory: keys and values of the memory.
            memory_keep: which of them are valid.
            own: keys and values that self-attention uses instead of those of ``x``; see `own_keys`.
        """
        keys, values = own or self.own_keys(x)
        x = self._around(x, self.self_norm, lambda y: self.self_attention(y, keys, values, keep, causal))
        if memory is not None:
            x = self._around(x, self.memory_norm, lambda y: self.memory_attention(y, *memory, memory_keep))
        return self._around(x, self.feed_norm, self.feed_forward)

    def own_keys(self, x: Tensor) -> KeysValues:
        """Returns keys and values of states (B, N, D) for the block's self-attention."""
        return self.self_attention.project(self.self_norm(x) if self.pre_norm else x)

    def _around(self, x: Tensor, norm: nn.Module, part: Part) -> Tensor:
        out: Tensor = x + part(norm(x)) if self.pre_norm else norm(x + part(x))
        return out


def through(layers: Iterable[nn.Module], x: Tensor, keep: Tensor | None = None, *, p_drop: float = 0.0) -> Tensor:
    """Returns the states after all blocks, each of which may be left out (arXiv:1909.11556).

    Args:
        layers: `TransformerBlock`s.
        x: states (B, N, D).
        keep: which keys each state sees.
        p_drop: probability that a block is left out.
    """
    for layer in layers:
        y = layer(x, keep)
        x = torch.where(torch.rand((), device=x.device) < p_drop, x, y) if p_drop else y
    return x
