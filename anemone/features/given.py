"""Features that are made elsewhere, such as by Kaldi: the model sees them as they come."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from anemone.config import must
from anemone.features.spec_augment import SpecAugmentConfig
from anemone.types import Features, Frames

MAX_FEATURES = 65_536


@dataclass(frozen=True, kw_only=True)
class GivenConfig:
    """Features of data that bring them; a model with these hears no recordings."""

    num_features: int
    """Width of a frame."""

    rate: int = 16_000
    """Samples per second of the audio that they were made of."""

    hop_ms: float = 10.0
    """Time from frame to frame, in milliseconds."""

    spec_augment: SpecAugmentConfig | None = None
    """What to hide from the model in training."""

    def __post_init__(self) -> None:
        must(1 <= self.num_features <= MAX_FEATURES, "num_features", f"in 1..{MAX_FEATURES}", value=self.num_features)
        must(self.rate >= 1, "rate", "1 or more", value=self.rate)
        must(self.hop_ms > 0, "hop_ms", "above 0", value=self.hop_ms)

    def build(self) -> "Given":
        """Returns the module."""
        return Given(self)


class GivenBatch(NamedTuple):
    """Features and their lengths."""

    x: Features[Tensor, "B F={self.num_features} T"]
    x_len: Frames[Tensor, "B"]


class Given(nn.Module):
    """Gives features on as they are.

    Example:
        >>> import torch
        >>> GivenConfig(num_features=40).build()(torch.zeros(1, 40, 7), torch.tensor([7])).x.shape
        torch.Size([1, 40, 7])
    """

    def __init__(self, config: GivenConfig) -> None:
        super().__init__()
        self.num_features, self.rate = config.num_features, config.rate
        self.hop = max(1, round(config.rate * config.hop_ms / 1000))

    def forward(self, x: Features[Tensor, "B F={self.num_features} T"], x_len: Frames[Tensor, "B"]) -> GivenBatch:
        """Returns what it is given.

        Args:
            x: features.
            x_len: valid frames.
        """
        return GivenBatch(x, x_len)
