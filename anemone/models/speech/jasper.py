"""Jasper: speech recognition with full convolutions and dense residuals (arXiv:1904.03288).

    features -> C1 (stride 2) -> B1 ... B10, five convolutions each -> C2 (dilated) -> C3 -> head

Every block adds the inputs of all blocks before it, each through a convolution of its own, to what it computes.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

from anemone.models.speech.quartznet import BlockConfig, QuartzNet, check_size

_PAPER = ((256, 11), (384, 13), (512, 17), (640, 21), (768, 25))
MIDDLE = {  # size -> (width, kernel) of each block
    "tiny": ((48, 7), (48, 7), (64, 9)),
    "5x3": _PAPER,
    "10x5": tuple(shape for shape in _PAPER for _ in range(2)),
}
ENDS = {"tiny": (48, 80, 96)}  # size -> widths of C1, C2 and C3, where they are not the paper's
REPEATS = {"tiny": 2, "5x3": 3, "10x5": 5}


@dataclass(frozen=True, kw_only=True)
class JasperConfig:
    """A Jasper of a named size, or of one's own blocks."""

    size: Literal["tiny", "5x3", "10x5", "custom"] = "10x5"
    """Blocks and convolutions in each: "10x5" is the paper's (with dense residuals), "custom" takes ``blocks``."""

    blocks: tuple[BlockConfig, ...] = ()
    """The blocks of a custom size."""

    dropout: float = 0.0
    """Share of activations dropped after each ReLU of a named size."""

    def __post_init__(self) -> None:
        check_size(self.size, self.blocks, self.dropout)

    def build(self, num_features: int) -> "Jasper":
        """Returns an encoder of ``num_features`` feature bins."""
        return Jasper(num_features, self.expanded())

    def written_out(self) -> Self:
        """Returns the same model as a custom size."""
        return replace(self, size="custom", blocks=self.expanded(), dropout=0.0)

    def expanded(self) -> tuple[BlockConfig, ...]:
        """Returns the blocks, those of the named size where there are no others."""
        if self.blocks:
            return self.blocks
        first, dilated, last = ENDS.get(self.size, (256, 896, 1024))
        block = partial(BlockConfig, separable=False, dropout=self.dropout)
        repeat = REPEATS[self.size]
        return (
            block(d_model=first, kernel=11, stride=2),
            *(block(d_model=d, kernel=k, repeat=repeat, residual=True, dense=True) for d, k in MIDDLE[self.size]),
            block(d_model=dilated, kernel=29, dilation=2),
            block(d_model=last, kernel=1),
        )


class Jasper(QuartzNet):
    """The encoder: features (B, F, T) to states (B, ceil(T / 2), D).

    Example:
        >>> import torch
        >>> encoder = JasperConfig(size="tiny").build(num_features=64)
        >>> encoder(torch.zeros(1, 64, 101), torch.tensor([101])).x.shape
        torch.Size([1, 51, 96])
    """
