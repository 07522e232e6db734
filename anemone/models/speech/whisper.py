"""Whisper: a Transformer from half a minute of speech to text (arXiv:2212.04356).

    log-mel (B, F, 3000) -> 2 convolutions, the second of stride 2 -> + sines of the places -> layers -> (B, 1500, D)

This is the encoder, and the head that goes with each size: a Transformer decoder with learned places, which shares its
embedding with the output; see `anemone.models.speech.attention_decoder`. Silence that fills the half minute up is heard
like any other sound.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.config import must
from anemone.models.speech.attention_decoder import AttentionHeadConfig, TransformerConfig
from anemone.nn.encoded import Encoded
from anemone.nn.transformer import TransformerBlock, through
from anemone.types import Features, Frames

MOST = {"d_model": 65_536, "num_layers": 1_000, "num_heads": 1_024, "d_ff": 1 << 20, "max_len": 1 << 20}
TEXT_LEN = 448  # tokens that a text may have
PERIOD = 10_000.0  # of the slowest sine, in frames, over 2 pi


class WhisperShape(NamedTuple):
    """All numbers that make an encoder of Whisper; `WhisperConfig` says what each of them is."""

    d_model: int
    num_layers: int
    num_heads: int
    d_ff: int
    max_len: int = 1500


SIZES = {
    "mini": WhisperShape(32, 2, 2, 64, 100),
    "tiny": WhisperShape(384, 4, 6, 1536),
    "base": WhisperShape(512, 6, 8, 2048),
    "small": WhisperShape(768, 12, 12, 3072),
    "medium": WhisperShape(1024, 24, 16, 4096),
    "large": WhisperShape(1280, 32, 20, 5120),
}


@dataclass(frozen=True, kw_only=True)
class WhisperConfig:
    """An encoder of a named size; a number that is given goes before that of the size."""

    size: Literal["mini", "tiny", "base", "small", "medium", "large"] = "base"
    """A published size, or a small one for tests ("mini")."""

    d_model: int | None = None
    """Width of the states."""

    num_layers: int | None = None
    """Number of layers."""

    num_heads: int | None = None
    """Heads of attention, a divisor of the width."""

    d_ff: int | None = None
    """Width inside the feed-forward parts."""

    max_len: int | None = None
    """Frames that come out: half of those that go in, which are always as many."""

    dropout: float = 0.0
    """Share of the first states and of what each part of a layer adds that is dropped."""

    dropout_attention: float = 0.0
    """Share of the weights of attention that is dropped."""

    dropout_ffn: float = 0.0
    """Share of activations dropped inside the feed-forward parts."""

    p_layer_drop: float = 0.0
    """Probability that a layer is left out of a training step (arXiv:1909.11556)."""

    def __post_init__(self) -> None:
        shape = self.shape
        for name, most in MOST.items():
            must(1 <= getattr(shape, name) <= most, name, f"in 1..{most}", value=getattr(shape, name))
        must(shape.d_model % shape.num_heads == 0, "num_heads", f"a divisor of {shape.d_model}", value=shape.num_heads)
        must(shape.d_model >= 4 and shape.d_model % 2 == 0, "d_model", "even and 4 or more", value=shape.d_model)
        for name in ("dropout", "dropout_attention", "dropout_ffn", "p_layer_drop"):
            must(0 <= getattr(self, name) < 1, name, "at least 0 and below 1", value=getattr(self, name))

    @property
    def shape(self) -> WhisperShape:
        """All numbers, of which those of the size fill in what is not given."""
        given = {name: value for name in WhisperShape._fields if (value := getattr(self, name)) is not None}
        return SIZES[self.size]._replace(**given)

    def build(self, num_features: int) -> "Whisper":
        """Returns an encoder of ``num_features`` feature bins."""
        return Whisper(num_features, self)

    def head(self, num_layers: int | None = None) -> AttentionHeadConfig:
        """Returns the settings of the head that goes with the size.

        Args:
            num_layers: of the decoder, where they are fewer than the encoder's, as in "large-v3-turbo" (4).
        """
        shape = self.shape
        decoder = TransformerConfig(
            num_layers=shape.num_layers if num_layers is None else num_layers,
            num_heads=shape.num_heads,
            d_hidden=shape.d_ff,
            activation="gelu",
            dropout=self.dropout,
            dropout_attention=self.dropout,
            dropout_scores=self.dropout_attention,
            key_bias=False,
        )
        return AttentionHeadConfig(
            d_model=shape.d_model,
            decoder=decoder,
            max_len=TEXT_LEN,
            positions="learned",
            embedding_norm=False,
            dropout_embedding=self.dropout,
            output_bias=False,
            vocab_multiple=1,
        )


class Whisper(nn.Module):
    """The encoder: features (B, F, 2 T) to states (B, T, D), for the one T that it knows.

    Example:
        >>> encoder = WhisperConfig(size="mini").build(num_features=80)
        >>> x, x_len = encoder(torch.randn(1, 80, 200), torch.tensor([200]))
        >>> x.shape, x_len
        (torch.Size([1, 100, 32]), tensor([100]))

    Args:
        num_features: feature bins, F.
        config: its settings.
    """

    def __init__(self, num_features: int, config: WhisperConfig) -> None:
        super().__init__()
        shape = config.shape
        self.config, self.num_features, self.d_model, self.max_len = config, num_features, shape.d_model, shape.max_len
        self.conv1 = nn.Conv1d(num_features, shape.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(shape.d_model, shape.d_model, 3, stride=2, padding=1)
        self.positions = nn.Parameter(sinusoids(shape.max_len, shape.d_model), requires_grad=False)
        self.layers = nn.ModuleList(
            TransformerBlock(
                shape.d_model,
                shape.num_heads,
                shape.d_ff,
                activation="gelu",
                pre_norm=True,
                memory=False,
                dropout=config.dropout,
                dropout_attention=config.dropout,
                dropout_scores=config.dropout_attention,
                dropout_hidden=config.dropout_ffn,
                key_bias=False,
            )
            for _ in range(shape.num_layers)
        )
        self.norm = nn.LayerNorm(shape.d_model)

    def forward(self, x: Features[Tensor, "B F={self.num_features} T"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns the states, all of them valid; features that are too few are followed by zeros.

        Args:
            x: features.
            x_len: not asked for: what fills an utterance up is a part of it.

        Raises:
            ConfigError: there are more frames than the encoder knows places for.
        """
        size = 2 * self.max_len
        must(x.shape[2] <= size, "features", f"at most {size} frames long for this encoder", value=x.shape[2])
        x = F.pad(x, (0, size - x.shape[2]))
        x = F.gelu(self.conv2(F.gelu(self.conv1(x)))).transpose(1, 2)  # (B, F, 2 T) -> (B, D, T) -> (B, T, D)
        x = F.dropout(x + self.positions, self.config.dropout, self.training)
        x = through(self.layers, x, p_drop=self.config.p_layer_drop if self.training else 0.0)
        return Encoded(self.norm(x), torch.full_like(x_len, self.max_len))


def sinusoids(num: int, d_model: int) -> Tensor:
    """Computes sines of places, then cosines, of periods from 2 pi to 2 pi 10,000 in equal ratios: (num, d_model).

    Args:
        num: number of places.
        d_model: width, even.
    """
    half = d_model // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(PERIOD) / (half - 1)))
    angles = torch.arange(num, dtype=torch.float32)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
