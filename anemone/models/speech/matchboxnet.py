"""MatchboxNet: speech commands with time-channel separable convolutions (arXiv:2004.08531).

QuartzNet's blocks, narrower and without the stride; MarbleNet, for voice activity, is the same encoder
(arXiv:2010.13886). "BxRxC" is the size: B residual blocks of R convolutions, C wide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from anemone.config import must
from anemone.models.speech.quartznet import BlockConfig, QuartzNet, Size, check_size
from anemone.nn.encoded import Encoded
from anemone.types import Features, Frames

_PAPER = Size(first=(128, 11), middle=((64, 13), (64, 15), (64, 17)), dilated=(128, 29), last=128, repeat=1, stride=1)
MAX_FRAMES = 65_536
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

    num_frames: int | None = None
    """Cuts or pads the features to this many frames, about the middle, as archives of NeMo's may ask; padding counts as
    valid then. None leaves them."""

    def __post_init__(self) -> None:
        check_size(self.size, self.blocks, self.dropout)
        fits = self.num_frames is None or 1 <= self.num_frames <= MAX_FRAMES
        must(fits, "num_frames", f"in 1..{MAX_FRAMES}", value=self.num_frames)

    def build(self, num_features: int) -> "MatchboxNet":
        """Returns an encoder of ``num_features`` feature bins."""
        return MatchboxNet(num_features, self.expanded(), num_frames=self.num_frames)

    def expanded(self) -> tuple[BlockConfig, ...]:
        """Returns the blocks, those of the named size where there are no others."""
        return self.blocks or SIZES[self.size].blocks(self.dropout)

    def written_out(self) -> Self:
        """Returns the same model as a custom size."""
        return replace(self, size="custom", blocks=self.expanded(), dropout=0.0)


class MatchboxNet(QuartzNet):
    """The encoder: features (B, F, T) to states (B, T, D).

    Example:
        >>> encoder = MatchboxNetConfig(size="3x1x64").build(num_features=64)
        >>> encoder(torch.zeros(1, 64, 101), torch.tensor([101])).x.shape
        torch.Size([1, 101, 128])

    Args:
        num_features: feature bins, F.
        blocks: the blocks.
        num_frames: frames to cut or pad to, if any.
    """

    def __init__(self, num_features: int, blocks: Sequence[BlockConfig], *, num_frames: int | None = None) -> None:
        super().__init__(num_features, blocks)
        self.num_frames = num_frames

    def forward(self, x: Features[Tensor, "B F={self.num_features} T"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns the states of the last block; what stands at padded frames means nothing.

        Args:
            x: features of speech.
            x_len: valid frames.
        """
        if self.num_frames is not None:
            x = crop_or_pad(x, self.num_frames)
            x_len = torch.full_like(x_len, self.num_frames)
        return super().forward(x, x_len)


def crop_or_pad(x: Tensor, num_frames: int) -> Tensor:
    """Returns the ``num_frames`` in the middle, or the whole with zeros on both sides: (B, F, T) -> (B, F, num_frames).

    Args:
        x: features.
        num_frames: frames to keep.
    """
    missing = num_frames - x.shape[2]
    if missing >= 0:
        return F.pad(x, (missing // 2, missing - missing // 2))
    return x.narrow(2, -missing // 2, num_frames)
