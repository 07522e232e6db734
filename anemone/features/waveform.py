"""The waveform itself, for models that compute their own features."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anemone.config import must
from anemone.features.spec_augment import SpecAugmentConfig
from anemone.types import Audio, Features, Frames, Samples

MAX_RATE = 384_000
EPS = 1e-7


@dataclass(frozen=True, kw_only=True)
class WaveformConfig:
    """Samples as features of width one: a frame is a sample."""

    rate: int = 16_000
    """Samples per second."""

    normalize: bool = True
    """Whether each utterance is brought to zero mean and unit variance."""

    spec_augment: SpecAugmentConfig | None = None
    """What to hide from the model in training: of a waveform, stretches of time."""

    def __post_init__(self) -> None:
        must(1 <= self.rate <= MAX_RATE, "rate", f"in 1..{MAX_RATE}", value=self.rate)

    def build(self) -> "Waveform":
        """Returns the module."""
        return Waveform(self)


class WaveformBatch(NamedTuple):
    """Samples and how many of them are valid."""

    x: Features[Tensor, "B F={self.num_features} T"]
    x_len: Frames[Tensor, "B"]


class Waveform(nn.Module):
    """Gives samples as frames; normalised, they are ``(x - mean) / sqrt(variance + 1e-7)``. Zero beyond each length.

    Example:
        >>> waveform = WaveformConfig().build()
        >>> x, x_len = waveform(torch.randn(2, 1000), torch.tensor([1000, 400]))
        >>> x.shape, x_len.tolist(), bool(x[1, 0, :400].mean().abs() < 1e-5)
        (torch.Size([2, 1, 1000]), [1000, 400], True)
    """

    def __init__(self, config: WaveformConfig) -> None:
        super().__init__()
        self.num_features, self.hop = 1, 1
        self.rate, self.normalize = config.rate, config.normalize

    def forward(self, x: Audio[Tensor, "B S"], x_len: Samples[Tensor, "B"]) -> WaveformBatch:
        """Returns the samples as frames of width one, as float32.

        Args:
            x: waveforms.
            x_len: their samples.
        """
        keep = torch.arange(x.shape[1], device=x.device) < x_len[:, None]
        x = torch.where(keep, x.float(), 0.0)
        if self.normalize:
            count = x_len[:, None].clamp(min=1)
            x = torch.where(keep, x - x.sum(1, keepdim=True) / count, 0.0)
            x = x * (x.square().sum(1, keepdim=True) / count + EPS).rsqrt()
        return WaveformBatch(x[:, None], x_len)  # (B, S) -> (B, 1, T)
