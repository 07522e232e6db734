"""Citrinet: speech recognition with separable convolutions and squeeze-and-excitation (arXiv:2104.01721).

    features -> C1 -> [stride 2, 6 blocks] -> [stride 2, 7 blocks] -> [stride 2, 8 blocks] -> C2 -> head

QuartzNet's blocks, each ending in squeeze-and-excitation over the whole recording. The first block of each of three
groups halves the number of frames in its last convolution. The size is the width of all blocks but the last.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple, Self

from anemone.config import must
from anemone.models.speech.quartznet import BlockConfig, QuartzNet, check_size

FIRST, LAST = 5, 41  # kernels of C1 and C2
REDUCTION = 8  # of squeeze-and-excitation


class Size(NamedTuple):
    """A named size."""

    d_model: int
    """Width of all blocks but the last."""

    kernels: tuple[tuple[int, ...], ...] = (
        (11, 13, 15, 17, 19, 21),
        (13, 15, 17, 19, 21, 23, 25),
        (25, 27, 29, 31, 33, 35, 37, 39),
    )
    """Of the blocks of each group."""

    repeat: int = 5
    """Convolutions of a block."""

    d_last: int = 640
    """Width of the last block."""


SIZES = {
    "tiny": Size(64, kernels=((11, 13), (13, 15), (17, 19)), repeat=2, d_last=96),
    **{str(width): Size(width) for width in (256, 384, 512, 768, 1024)},
}


def odd_kernel(kernel: int, scale: float) -> int:
    """Returns a kernel scaled, cut to a whole number and made odd.

    Args:
        kernel: frames it spans.
        scale: factor.
    """
    scaled = max(1, int(kernel * scale))
    return scaled + 1 - scaled % 2


@dataclass(frozen=True, kw_only=True)
class CitrinetConfig:
    """A Citrinet of a named size, or of one's own blocks."""

    size: Literal["tiny", "256", "384", "512", "768", "1024", "custom"] = "512"
    """The width, as the paper and its archives name sizes; "tiny" is the same net with fewer blocks, 64 wide; "custom"
    takes ``blocks``."""

    blocks: tuple[BlockConfig, ...] = ()
    """The blocks of a custom size."""

    dropout: float = 0.0
    """Share of activations dropped in the middle blocks of a named size."""

    kernel_scale: float = 1.0
    """Factor of the kernels of a named size, the paper's gamma: archives have 0.25 for short context."""

    se_context: int | None = None
    """Frames that squeeze-and-excitation of a named size sees in training; None sees the whole recording."""

    def __post_init__(self) -> None:
        check_size(self.size, self.blocks, self.dropout)
        must(0 < self.kernel_scale <= 100, "kernel_scale", "above 0 and at most 100", value=self.kernel_scale)
        must(self.se_context is None or self.se_context >= 1, "se_context", "1 or more, or null", value=self.se_context)
        own = not self.blocks or (self.kernel_scale == 1 and self.se_context is None)
        must(own, "kernel_scale", "left out, as `se_context`, where `blocks` are given", value=self.kernel_scale)

    def build(self, num_features: int) -> "Citrinet":
        """Returns an encoder of ``num_features`` feature bins."""
        return Citrinet(num_features, self.expanded())

    def written_out(self) -> Self:
        """Returns the same model as a custom size."""
        return replace(self, size="custom", blocks=self.expanded(), dropout=0.0, kernel_scale=1.0, se_context=None)

    def expanded(self) -> tuple[BlockConfig, ...]:
        """Returns the blocks, those of the named size where there are no others."""
        if self.blocks:
            return self.blocks
        d_model, kernels, repeat, d_last = SIZES[self.size]
        block = partial(BlockConfig, se_reduction=REDUCTION, se_context=self.se_context)
        middle = partial(block, d_model=d_model, repeat=repeat, residual=True, dropout=self.dropout)
        return (
            block(d_model=d_model, kernel=FIRST),
            *(
                middle(kernel=odd_kernel(kernel, self.kernel_scale), stride=1 if i else 2, stride_last=not i)
                for group in kernels
                for i, kernel in enumerate(group)
            ),
            block(d_model=d_last, kernel=odd_kernel(LAST, self.kernel_scale)),
        )


class Citrinet(QuartzNet):
    """The encoder: features (B, F, T) to states (B, ceil(T / 8), D).

    Example:
        >>> import torch
        >>> encoder = CitrinetConfig(size="tiny").build(num_features=80)
        >>> encoder(torch.zeros(1, 80, 101), torch.tensor([101])).x.shape
        torch.Size([1, 13, 96])
    """
