"""QuartzNet: speech recognition with time-channel separable convolutions (arXiv:1910.10261).

    features -> C1 -> B1 ... B5, each S times -> C2 -> C3 -> head

A block holds R depthwise-separable convolutions, each with batch normalisation and ReLU, and adds its input before
the last ReLU. "BxR" is the size: ``15x5`` has each of five blocks three times, five convolutions in each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from anemone.config import must
from anemone.nn.conv import ConvBlock, ConvStack

MOST = {"d_model": 65_536, "kernel": 65_536, "repeat": 1_000, "stride": 1_000, "dilation": 65_536}
MAX_SPAN = 65_536


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One block of convolutions."""

    d_model: int
    """Width of the output."""

    kernel: int
    """Frames that a kernel spans; odd."""

    repeat: int = 1
    """Convolutions in the block."""

    stride: int = 1
    """Step of each convolution, in frames."""

    dilation: int = 1
    """Step of the kernels, in frames."""

    separable: bool = True
    """Depthwise and pointwise convolutions; else full ones."""

    residual: bool = False
    """Add the input of the block before its last ReLU."""

    dropout: float = 0.0
    """Share of activations dropped after each ReLU."""

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            must(1 <= getattr(self, name) <= most, name, f"in 1..{most}", value=getattr(self, name))
        span = self.dilation * (self.kernel - 1)
        must(span <= MAX_SPAN, "dilation", f"such that a kernel spans {MAX_SPAN} frames or less", value=self.dilation)
        must(self.kernel % 2 == 1, "kernel", "odd", value=self.kernel, hint="An even kernel has no middle frame.")
        must(self.kernel > 1 or self.stride == 1, "stride", "1 where `kernel` is 1", value=self.stride)
        must(self.stride == 1 or not self.residual, "stride", "1 in a residual block", value=self.stride)
        must(0 <= self.dropout < 1, "dropout", "at least 0 and below 1", value=self.dropout)

    def build(self, d_in: int) -> ConvBlock:
        """Returns the block over an input of width ``d_in``."""
        return ConvBlock(
            d_in,
            self.d_model,
            self.kernel,
            repeat=self.repeat,
            stride=self.stride,
            dilation=self.dilation,
            separable=self.separable,
            residual=self.residual,
            dropout=self.dropout,
        )


class Size(NamedTuple):
    """A named size: (width, kernel) of each block, as the papers' tables give them."""

    first: tuple[int, int]
    middle: tuple[tuple[int, int], ...]
    dilated: tuple[int, int]
    last: int
    times: int = 1
    repeat: int = 5
    stride: int = 2

    def blocks(self, dropout: float) -> tuple[BlockConfig, ...]:
        """Blocks from first to last; the middle ones stand ``times`` times each and are residual."""
        middle = [shape for shape in self.middle for _ in range(self.times)]
        return (
            BlockConfig(d_model=self.first[0], kernel=self.first[1], stride=self.stride, dropout=dropout),
            *(BlockConfig(d_model=d, kernel=k, repeat=self.repeat, residual=True, dropout=dropout) for d, k in middle),
            BlockConfig(d_model=self.dilated[0], kernel=self.dilated[1], dilation=2, dropout=dropout),
            BlockConfig(d_model=self.last, kernel=1, separable=False, dropout=dropout),
        )


_PAPER = Size(
    first=(256, 33), middle=((256, 33), (256, 39), (512, 51), (512, 63), (512, 75)), dilated=(512, 87), last=1024
)
SIZES = {
    "tiny": Size(first=(80, 11), middle=((80, 13), (80, 15), (80, 17)), repeat=2, dilated=(96, 29), last=128),
    "5x5": _PAPER,
    "10x5": _PAPER._replace(times=2),
    "15x5": _PAPER._replace(times=3),
}


@dataclass(frozen=True, kw_only=True)
class QuartzNetConfig:
    """A QuartzNet of a named size, or of one's own blocks."""

    size: Literal["tiny", "5x5", "10x5", "15x5", "custom"] = "15x5"
    """The paper's sizes; "tiny" is the same net, narrower (0.1 million parameters), "custom" takes ``blocks``."""

    blocks: tuple[BlockConfig, ...] = ()
    """The blocks of a custom size."""

    dropout: float = 0.0
    """Share of activations dropped after each ReLU of a named size."""

    def __post_init__(self) -> None:
        check_size(self.size, self.blocks, self.dropout)

    def build(self, num_features: int) -> "QuartzNet":
        """Returns an encoder of ``num_features`` feature bins."""
        return QuartzNet(num_features, self.blocks or SIZES[self.size].blocks(self.dropout))


def check_size(size: str, blocks: tuple[BlockConfig, ...], dropout: float) -> None:
    """Raises unless either a named size is asked for, or a custom one with its blocks.

    Raises:
        ConfigError: naming the setting.
    """
    rule = 'given where `size` is "custom", and only there'
    must((size == "custom") == bool(blocks), "blocks", rule, value=blocks, hint=f"`size` is {size!r}.")
    must(0 <= dropout < 1, "dropout", "at least 0 and below 1", value=dropout)
    must(
        not (blocks and dropout),
        "dropout",
        "left out where `blocks` are given",
        value=dropout,
        hint="Each has its own.",
    )


class QuartzNet(ConvStack):
    """The encoder: features (B, F, T) to states (B, ceil(T / 2), D).

    Example:
        >>> import torch
        >>> encoder = QuartzNetConfig(size="tiny").build(num_features=64)
        >>> x, x_len = encoder(torch.zeros(1, 64, 101), torch.tensor([101]))
        >>> x.shape, x_len
        (torch.Size([1, 51, 128]), tensor([51]))

    Args:
        num_features: feature bins, F.
        blocks: the blocks.
    """

    def __init__(self, num_features: int, blocks: Sequence[BlockConfig]) -> None:
        widths = [num_features, *(block.d_model for block in blocks)]
        super().__init__(num_features, [block.build(d_in) for block, d_in in zip(blocks, widths, strict=False)])
