"""SpecAugment and SpecCutout: features with parts hidden, so that a model learns to do without any one of them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anemone.config import must
from anemone.types import Features, Frames

MAX_MASKS = 1_000


@dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """SpecAugment (arXiv:1904.08779) with adaptive time masks (arXiv:1912.05533), and Cutout (arXiv:1708.04552)."""

    p: float = 1.0
    """Probability that an utterance is changed."""

    num_freq_masks: int = 2
    """Bands of feature bins to hide in each utterance."""

    freq_width: int = 27
    """Bins in a band, uniform in [0, freq_width)."""

    num_time_masks: int = 10
    """Stretches of time to hide in each utterance."""

    time_width: int | float = 0.05
    """Frames in a stretch, uniform in [0, time_width); a number below 1 is a share of the utterance's length."""

    num_rect_masks: int = 0
    """Rectangles to hide in each utterance (SpecCutout)."""

    rect_freq: int = 20
    """Bins in a rectangle, uniform in [0, rect_freq]."""

    rect_time: int = 5
    """Frames in a rectangle, uniform in [0, rect_time]."""

    mask_value: float = 0.0
    """What stands in place of hidden features; 0 is the mean of normalised ones."""

    def __post_init__(self) -> None:
        must(0 <= self.p <= 1, "p", "between 0 and 1", value=self.p)
        for name in ("num_freq_masks", "num_time_masks", "num_rect_masks"):
            must(0 <= getattr(self, name) <= MAX_MASKS, name, f"in 0..{MAX_MASKS}", value=getattr(self, name))
        for name in ("freq_width", "rect_freq", "rect_time"):
            must(getattr(self, name) >= 1, name, "1 or more", value=getattr(self, name))
        whole = self.time_width < 1 or float(self.time_width).is_integer()
        must(self.time_width > 0 and whole, "time_width", "a whole number of frames, or a share", value=self.time_width)
        must(math.isfinite(self.mask_value), "mask_value", "finite", value=self.mask_value)

    def build(self) -> "SpecAugment":
        """Returns the module."""
        return SpecAugment(self)


class Augmented(NamedTuple):
    """Features with parts hidden, and their lengths."""

    x: Features[Tensor, "B F T"]
    x_len: Frames[Tensor, "B"]


class SpecAugment(nn.Module):
    """Hides bands, stretches and rectangles of features in training; changes nothing in evaluation.

    Each mask is a rectangle drawn for each utterance by itself, within its length, from torch's global generator.

    Example:
        >>> augment = SpecAugmentConfig(num_freq_masks=1, freq_width=5, num_time_masks=0).build()
        >>> hidden = augment(torch.ones(1, 64, 100), torch.tensor([100])).x == 0
        >>> bool((hidden.any(1) == hidden.any(2).any(1)).all()), int(hidden.any(2).sum()) < 5
        (True, True)
    """

    def __init__(self, config: SpecAugmentConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, x: Features[Tensor, "B F T"], x_len: Frames[Tensor, "B"]) -> Augmented:
        """Hides parts of each utterance.

        Args:
            x: features.
            x_len: valid frames.
        """
        if not self.training:
            return Augmented(x, x_len)
        c = self.config
        bins, frames = torch.full_like(x_len, x.shape[1])[:, None], x_len[:, None]
        time_width = frames * c.time_width if c.time_width < 1 else frames.clamp(max=int(c.time_width))
        bands = segments(c.num_freq_masks, bins, bins.clamp(max=c.freq_width), x.shape[1])
        stretches = segments(c.num_time_masks, frames, time_width, x.shape[2])
        hidden = bands.any(1)[:, :, None] | stretches.any(1)[:, None, :]
        if c.num_rect_masks:
            tall, long = bins.clamp(max=c.rect_freq), frames.clamp(max=c.rect_time)
            rows = segments(c.num_rect_masks, bins, tall + 1, x.shape[1], reserve=tall - 1)
            columns = segments(c.num_rect_masks, frames, long + 1, x.shape[2], reserve=long - 1)
            hidden = hidden | (rows.float().transpose(1, 2) @ columns.float() > 0.5)
        hidden = hidden & (torch.arange(x.shape[2], device=x.device) < frames[:, :, None])
        if c.p < 1:
            hidden = hidden & (torch.rand(x.shape[0], 1, 1, device=x.device) < c.p)
        return Augmented(x.masked_fill(hidden, c.mask_value), x_len)


def segments(count: int, size: Tensor, width: Tensor, length: int, *, reserve: Tensor | None = None) -> Tensor:
    """Draws random stretches of a line: True within each, (B, count, length).

    Widths are uniform in [0, width), starts in [0, size - reserve).

    Args:
        count: stretches for each item of the batch.
        size: where the line of each item ends (B, 1).
        width: bound of the widths (B, 1).
        length: length of the mask.
        reserve: room to leave behind each start (B, 1); by default the width that was drawn.
    """
    chance = torch.rand(2, size.shape[0], count, device=size.device)
    widths = (chance[0] * width).floor()
    starts = (chance[1] * (size - (widths if reserve is None else reserve))).floor()[:, :, None]
    place = torch.arange(length, device=size.device)
    return (place >= starts) & (place < starts + widths[:, :, None])
