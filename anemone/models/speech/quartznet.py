"""QuartzNet: speech recognition with time-channel separable convolutions (arXiv:1910.10261).

    features -> C1 -> B1 ... B5, each S times -> C2 -> C3 -> head

A block holds R depthwise-separable convolutions, each with batch normalisation and ReLU, and adds its input before
the last ReLU. "BxR" is the size: ``15x5`` has each of five blocks three times, five convolutions in each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

from anemone.config import must
from anemone.nn.activations import Activation
from anemone.nn.conv import ConvBlock, ConvStack, Merge
from anemone.nn.squeeze import SqueezeExcite

MOST = {"d_model": 65_536, "kernel": 65_536, "repeat": 1_000, "stride": 1_000, "dilation": 65_536}
MAX_SPAN = 65_536


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One block of convolutions, see `anemone.nn.conv.ConvBlock`."""

    d_model: int
    """Width of the output."""

    kernel: int
    """Frames that a kernel spans; odd."""

    repeat: int = 1
    """Convolutions in the block."""

    stride: int = 1
    """Step of each convolution, in frames."""

    stride_last: bool = False
    """Only the last convolution has the stride."""

    dilation: int = 1
    """Step of the kernels, in frames."""

    separable: bool = True
    """Depthwise and pointwise convolutions; else full ones."""

    residual: bool = False
    """Add the input of the block before its last activation."""

    merge: Merge = "add"
    """Add the residual, or take the larger of the two."""

    dense: bool = False
    """Merge the inputs of the dense blocks right before, too (Jasper's dense residual)."""

    se_reduction: int | None = None
    """Squeeze-and-excitation whose inner layer is so many times narrower; None has none."""

    se_context: int | None = None
    """Frames of the random window that its mean is taken over in training; None takes all."""

    dropout: float = 0.0
    """Share of activations dropped after each."""

    activation: Activation = "relu"
    """After each convolution."""

    look_ahead: int | None = None
    """Steps of a kernel that lie in the future; None is half of them, as it is for kernels that span no more."""

    heads: int | None = None
    """Number of different depthwise kernels, which channels take in turn; None has one for each channel."""

    groups: int = 1
    """Parts of the channels in pointwise and full convolutions, which are mixed after each."""

    norm_groups: int | None = None
    """Parts for group normalisation, padding included; None is batch normalisation."""

    masked: bool = True
    """Set padded frames to zero before each convolution; without it, padding counts as speech."""

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            must(1 <= getattr(self, name) <= most, name, f"in 1..{most}", value=getattr(self, name))
        for name in ("se_reduction", "se_context", "heads", "norm_groups"):
            value = getattr(self, name)
            must(value is None or 1 <= value <= MAX_SPAN, name, f"in 1..{MAX_SPAN}, or null", value=value)
        span = self.dilation * (self.kernel - 1)
        must(span <= MAX_SPAN, "dilation", f"such that a kernel spans {MAX_SPAN} frames or less", value=self.dilation)
        must(self.kernel % 2 == 1, "kernel", "odd", value=self.kernel, hint="An even kernel has no middle frame.")
        must(self.look_ahead is None or self.look_ahead >= 0, "look_ahead", "0 or more, or null", value=self.look_ahead)
        once = self.stride == 1 or self.stride_last or self.repeat == 1
        rule = "1 in a residual block of several convolutions, unless `stride_last` is set"
        must(once or not self.residual, "stride", rule, value=self.stride)
        must(not self.dense or self.residual, "dense", "false in a block that is not residual", value=self.dense)
        must(not self.dense or self.stride == 1, "stride", "1 in a dense block", value=self.stride)
        must(self.separable or self.heads is None, "heads", "null but for separable convolutions", value=self.heads)
        divided = self.d_model % self.groups == 0
        must(divided, "groups", f"a divisor of `d_model`, {self.d_model}", value=self.groups)
        fits = self.norm_groups is None or self.d_model % self.norm_groups == 0
        must(fits, "norm_groups", f"a divisor of `d_model`, {self.d_model}", value=self.norm_groups)
        fits = self.se_reduction is None or self.se_reduction <= self.d_model
        must(fits, "se_reduction", f"`d_model`, {self.d_model}, or less", value=self.se_reduction)
        must(0 <= self.dropout < 1, "dropout", "at least 0 and below 1", value=self.dropout)

    def build(self, d_in: int, earlier: Sequence[int] = ()) -> ConvBlock:
        """Returns the block.

        Args:
            d_in: width of the input.
            earlier: widths of the inputs of the dense blocks right before.

        Raises:
            ConfigError: the width of the input cannot be cut into ``groups`` or ``heads``.
        """
        must(d_in % self.groups == 0, "groups", f"a divisor of {d_in}, the width before", value=self.groups)
        widths = [d_in] + [self.d_model] * (self.repeat > 1)
        fits = self.heads is None or all(width % self.heads == 0 for width in widths)
        must(fits, "heads", f"a divisor of {' and '.join(map(str, widths))}", value=self.heads)
        squeeze = None
        if self.se_reduction:
            squeeze = SqueezeExcite(
                self.d_model, reduction=self.se_reduction, context=self.se_context, activation=self.activation
            )
        return ConvBlock(
            d_in,
            self.d_model,
            self.kernel,
            repeat=self.repeat,
            stride=self.stride,
            stride_last=self.stride_last,
            dilation=self.dilation,
            separable=self.separable,
            residual=self.residual,
            merge=self.merge,
            earlier=earlier if self.dense else None,
            squeeze=squeeze,
            dropout=self.dropout,
            activation=self.activation,
            look_ahead=self.look_ahead,
            heads=self.heads,
            groups=self.groups,
            norm_groups=self.norm_groups,
            masked=self.masked,
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
        return QuartzNet(num_features, self.expanded())

    def expanded(self) -> tuple[BlockConfig, ...]:
        """Returns the blocks, those of the named size where there are no others."""
        return self.blocks or SIZES[self.size].blocks(self.dropout)

    def written_out(self) -> Self:
        """Returns the same model as a custom size."""
        return replace(self, size="custom", blocks=self.expanded(), dropout=0.0)


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
        built, earlier, d_in = [], list[int](), num_features
        for block in blocks:
            built.append(block.build(d_in, earlier))
            earlier = [*earlier, d_in] if block.dense else []
            d_in = block.d_model
        super().__init__(num_features, built)
