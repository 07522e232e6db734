"""MatchboxNet: speech commands with time-channel separable convolutions (arXiv:2004.08531).

QuartzNet's blocks, narrower and without the stride; MarbleNet, for voice activity, is the same encoder
(arXiv:2010.13886). "BxRxC" is the size: B residual blocks of R convolutions, C wide.
"""

from dataclasses import dataclass
from typing import Literal

from anemone.models.speech.quartznet import BlockConfig, QuartzNet, Size, check_size

_PAPER = Size(first=(128, 11), middle=((64, 13), (64, 15), (64, 17)), dilated=(128, 29), last=128, repeat=1, stride=1)
SIZES = {"3x1x64": _PAPER, "3x2x64": _PAPER._replace(repeat=2)}


@dataclass(frozen=True, kw_only=True)
class MatchboxNetConfig:
    """A MatchboxNet of a named size, or of one's own blocks."""

    size: Literal["3x1x64", "3x2x64", "custom"] = "3x2x64"
    """The paper's sizes; MarbleNet is "3x2x64" too; "custom" takes ``blocks``."""

    blocks: tuple[BlockConfig, ...] = ()
    """The blocks of a custom size."""

    dropout: float = 0.0
    """Share of activations dropped after each ReLU of a named size."""

    def __post_init__(self) -> None:
        check_size(self.size, self.blocks, self.dropout)

    def build(self, num_features: int) -> "MatchboxNet":
        """Returns an encoder of ``num_features`` feature bins."""
        return MatchboxNet(num_features, self.blocks or SIZES[self.size].blocks(self.dropout))


class MatchboxNet(QuartzNet):
    """The encoder: features (B, F, T) to states (B, T, D).

    Example:
        >>> import torch
        >>> encoder = MatchboxNetConfig(size="3x1x64").build(num_features=64)
        >>> encoder(torch.zeros(1, 64, 101), torch.tensor([101])).x.shape
        torch.Size([1, 101, 128])
    """
