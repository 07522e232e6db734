"""wav2vec 2.0: a Transformer over a waveform that convolutions cut into frames (arXiv:2006.11477).

    waveform -> 7 convolutions (a frame for 320 samples) -> norm, projection -> + convolution as position -> layers

The network is that of published checkpoints, in both of its forms: "base" and "large" normalise the first convolution
over time and each layer's sums; "large_lv60" and XLSR normalise every convolution over channels and what goes into each
part of a layer. In training, stretches of time are hidden behind a learned vector. Here the norm over time is of the
valid frames of each utterance, so that padding changes nothing.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.config import must
from anemone.nn.encoded import Encoded, keep_mask, key_mask
from anemone.nn.transformer import TransformerBlock, through
from anemone.types import Features, Frames, Hidden

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
MOST = {"d_model": 65_536, "num_layers": 1_000, "num_heads": 1_024, "d_ff": 1 << 20, "position_kernel": 4_096}
MAX_CONVS = 64
Norm = Literal["time", "channels", "none"]


class Wav2Vec2Shape(NamedTuple):
    """All numbers that make a wav2vec 2.0; `Wav2Vec2Config` says what each of them is."""

    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    conv_widths: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = KERNELS
    conv_strides: tuple[int, ...] = STRIDES
    conv_norm: Literal["time", "channels"] = "time"
    conv_bias: bool = False
    pre_norm: bool = False
    position_kernel: int = 128
    position_groups: int = 16
    norm_eps: float = 1e-5


_LARGE = Wav2Vec2Shape(d_model=1024, num_layers=24, num_heads=16, d_ff=4096)
SIZES = {
    "tiny": Wav2Vec2Shape(64, 2, 4, 128, (32,) * 7, position_kernel=16, position_groups=4),
    "base": Wav2Vec2Shape(),
    "large": _LARGE,
    "large_lv60": _LARGE._replace(conv_norm="channels", conv_bias=True, pre_norm=True),
}
RATES = ("dropout", "dropout_attention", "dropout_ffn", "dropout_features", "dropout_out", "p_layer_drop")


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Config:
    """A wav2vec 2.0 of a named size; a number that is given goes before that of the size."""

    size: Literal["tiny", "base", "large", "large_lv60"] = "base"
    """A published size, or a small one for tests."""

    d_model: int | None = None
    """Width of the states."""

    num_layers: int | None = None
    """Number of layers of the Transformer."""

    num_heads: int | None = None
    """Heads of attention, a divisor of the width."""

    d_ff: int | None = None
    """Width inside the feed-forward parts."""

    conv_widths: tuple[int, ...] | None = None
    """Channels of each convolution over the waveform."""

    conv_kernels: tuple[int, ...] | None = None
    """Length of each of their kernels."""

    conv_strides: tuple[int, ...] | None = None
    """Step of each of them."""

    conv_norm: Literal["time", "channels"] | None = None
    """What is normalised: the first convolution, each channel over time; or all of them, each frame over channels."""

    conv_bias: bool | None = None
    """Whether these convolutions have biases."""

    pre_norm: bool | None = None
    """Normalise what goes into each part of a layer, or the sum after it."""

    position_kernel: int | None = None
    """Frames that the convolution spans which tells positions."""

    position_groups: int | None = None
    """Groups of its channels."""

    norm_eps: float | None = None
    """What normalisation of states adds to the variance; 1e-5 always in the convolutions."""

    dropout: float = 0.1
    """Share of what each part of a layer adds that is dropped."""

    dropout_attention: float = 0.1
    """Share of the weights of attention that is dropped."""

    dropout_ffn: float = 0.1
    """Share of activations dropped inside the feed-forward parts."""

    dropout_features: float = 0.0
    """Share of the projected features that is dropped."""

    dropout_out: float = 0.1
    """Share of the last states that is dropped."""

    p_layer_drop: float = 0.1
    """Probability that a layer is left out of a training step (arXiv:1909.11556)."""

    p_time_mask: float = 0.05
    """Share of the frames that is hidden in training, were the stretches apart."""

    time_mask_width: int = 10
    """Frames in a stretch."""

    min_time_masks: int = 2
    """The least number of stretches in an utterance."""

    p_channel_mask: float = 0.0
    """Share of the channels that is set to zero in training, were the bands apart."""

    channel_mask_width: int = 10
    """Channels in a band."""

    min_channel_masks: int = 0
    """The least number of bands in an utterance."""

    def __post_init__(self) -> None:
        shape = self.shape
        for name, most in MOST.items():
            must(1 <= getattr(shape, name) <= most, name, f"in 1..{most}", value=getattr(shape, name))
        must(shape.d_model % shape.num_heads == 0, "num_heads", f"a divisor of {shape.d_model}", value=shape.num_heads)
        groups = shape.position_groups
        must(
            groups >= 1 and shape.d_model % groups == 0,
            "position_groups",
            f"a divisor of {shape.d_model}",
            value=groups,
        )
        must(
            0 < len(shape.conv_widths) <= MAX_CONVS, "conv_widths", f"1 to {MAX_CONVS} numbers", value=shape.conv_widths
        )
        for name in ("conv_widths", "conv_kernels", "conv_strides"):
            sizes = getattr(shape, name)
            fits = len(sizes) == len(shape.conv_widths) and all(1 <= size <= MOST["d_model"] for size in sizes)
            must(fits, name, f"{len(shape.conv_widths)} numbers of 1 or more, as many as `conv_widths`", value=sizes)
        must(0 < shape.norm_eps < 1, "norm_eps", "above 0 and below 1", value=shape.norm_eps)
        for name in (*RATES, "p_time_mask", "p_channel_mask"):
            must(0 <= getattr(self, name) < 1, name, "at least 0 and below 1", value=getattr(self, name))
        for name in ("time_mask_width", "channel_mask_width"):
            must(1 <= getattr(self, name) <= 1_000, name, "in 1..1000", value=getattr(self, name))
        for name in ("min_time_masks", "min_channel_masks"):
            must(0 <= getattr(self, name) <= 1_000, name, "in 0..1000", value=getattr(self, name))

    @property
    def shape(self) -> Wav2Vec2Shape:
        """All numbers, of which those of the size fill in what is not given."""
        given = {name: value for name in Wav2Vec2Shape._fields if (value := getattr(self, name)) is not None}
        return SIZES[self.size]._replace(**given)

    def build(self, num_features: int) -> "Wav2Vec2":
        """Returns the encoder.

        Raises:
            ConfigError: the features are no waveform.
        """
        must(num_features == 1, "features", "of the kind `waveform`, one number wide", value=num_features)
        return Wav2Vec2(self)


class FrameConv(nn.Module):
    """A convolution over a waveform or its frames, the GELU, and what is normalised between them.

    Args:
        d_in: channels of the input.
        d_model: channels of the output.
        kernel: length of the kernel.
        stride: step of the output.
        norm: each channel over time, each frame over channels, or nothing.
        bias: whether the convolution has one.
    """

    def __init__(
        self,
        d_in: int,
        d_model: int,
        kernel: int,
        *,
        stride: int,
        norm: Norm,
        bias: bool,
    ) -> None:
        super().__init__()
        self.d_in, self.d_model, self.norm_over = d_in, d_model, norm
        self.conv = nn.Conv1d(d_in, d_model, kernel, stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm = nn.LayerNorm(d_model) if norm != "none" else None

    def forward(
        self, x: Hidden[Tensor, "B C={self.d_in} T"], x_len: Frames[Tensor, "B"]
    ) -> Hidden[Tensor, "B D={self.d_model} T'"]:
        """Returns the frames.

        Args:
            x: waveform or frames.
            x_len: valid frames of the output.
        """
        x = self.conv(x)
        if self.norm is not None and self.norm_over == "channels":
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)  # (B, D, T) -> (B, T, D) -> (B, D, T)
        elif self.norm is not None:
            x = _normalized(x, keep_mask(x_len, x.shape[2]).transpose(1, 2), self.norm)
        return F.gelu(x)


def _normalized(x: Tensor, keep: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Each channel of (B, D, T) to zero mean and unit variance over its valid frames, in float32; then the gain."""
    x, count = x.float(), keep.sum(-1, keepdim=True).clamp(min=1)
    x = torch.where(keep, x, 0.0)
    x = torch.where(keep, x - x.sum(-1, keepdim=True) / count, 0.0)
    x = x * (x.square().sum(-1, keepdim=True) / count + norm.eps).rsqrt()
    return torch.addcmul(norm.bias[:, None], x, norm.weight[:, None])


class PositionConv(nn.Module):
    """A grouped convolution over many frames, the GELU of which tells each frame where it is.

    Its weight is ``gain[k] v / |v[..., k]|``: one length for each place of the kernel (arXiv:1602.07868).

    Args:
        d_model: width of the states.
        kernel: frames that the kernel spans.
        groups: groups of channels.
    """

    def __init__(self, d_model: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.d_model, self.kernel, self.groups = d_model, kernel, groups
        self.direction = nn.Parameter(torch.randn(d_model, d_model // groups, kernel) * 2 / math.sqrt(kernel * d_model))
        with torch.no_grad():
            self.gain = nn.Parameter(torch.linalg.vector_norm(self.direction, dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Hidden[Tensor, "B T D={self.d_model}"]) -> Hidden[Tensor, "B T D={self.d_model}"]:
        """Returns what is added to the states.

        Args:
            x: states, zero beyond each length.
        """
        length = torch.linalg.vector_norm(self.direction, dim=(0, 1), keepdim=True)
        weight = self.direction * (self.gain / length)
        y = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return F.gelu(y[..., : x.shape[1]]).transpose(1, 2)  # (B, D, T) -> (B, T, D); an even kernel gives one too many


class Wav2Vec2(nn.Module):
    """The encoder: a waveform (B, 1, S) to states (B, T', D), one for 320 samples.

    Example:
        >>> encoder = Wav2Vec2Config(size="tiny").build(num_features=1).eval()
        >>> x, x_len = encoder(torch.randn(1, 1, 16_000), torch.tensor([16_000]))
        >>> x.shape, x_len
        (torch.Size([1, 49, 64]), tensor([49]))

    Args:
        config: its settings.
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        shape = config.shape
        self.config, self.d_model, self.num_features = config, shape.d_model, 1
        self.steps = tuple(zip(shape.conv_kernels, shape.conv_strides, strict=True))
        self.least = 1
        for kernel, stride in reversed(self.steps):
            self.least = (self.least - 1) * stride + kernel
        later: Norm = "channels" if shape.conv_norm == "channels" else "none"
        widths, norms = (1, *shape.conv_widths), (shape.conv_norm, *[later] * (len(self.steps) - 1))
        self.convs = nn.ModuleList(
            FrameConv(widths[n], widths[n + 1], kernel, stride=stride, norm=norms[n], bias=shape.conv_bias)
            for n, (kernel, stride) in enumerate(self.steps)
        )
        self.feature_norm = nn.LayerNorm(widths[-1], shape.norm_eps)
        self.projection = nn.Linear(widths[-1], shape.d_model)
        masked = config.p_time_mask > 0 or config.p_channel_mask > 0
        self.mask = nn.Parameter(torch.rand(shape.d_model)) if masked else None
        self.position = PositionConv(shape.d_model, shape.position_kernel, shape.position_groups)
        self.norm = nn.LayerNorm(shape.d_model, shape.norm_eps)
        self.layers = nn.ModuleList(
            TransformerBlock(
                shape.d_model,
                shape.num_heads,
                shape.d_ff,
                activation="gelu",
                pre_norm=shape.pre_norm,
                memory=False,
                dropout=config.dropout,
                dropout_attention=config.dropout,
                dropout_scores=config.dropout_attention,
                dropout_hidden=config.dropout_ffn,
                norm_eps=shape.norm_eps,
            )
            for _ in range(shape.num_layers)
        )
        self.pre_norm = shape.pre_norm

    def forward(self, x: Features[Tensor, "B F={self.num_features} T"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns the states; what stands at padded frames means nothing.

        A waveform too short for one frame is followed by silence.

        Args:
            x: waveforms.
            x_len: their samples.
        """
        config = self.config
        x = x * keep_mask(x_len, x.shape[2]).transpose(1, 2)
        x = F.pad(x, (0, self.least))[..., : max(x.shape[2], self.least)]
        x_len = x_len.clamp(min=self.least)
        for conv, (kernel, stride) in zip(self.convs, self.steps, strict=True):
            x_len = (x_len - kernel) // stride + 1
            x = conv(x, x_len)
        x = self.projection(self.feature_norm(x.transpose(1, 2)))  # (B, C, T) -> (B, T, D)
        x = F.dropout(x, config.dropout_features, self.training)
        if self.training and self.mask is not None:
            x = self._hide(x, x_len, self.mask)
        x = x * keep_mask(x_len, x.shape[1])
        x = x + self.position(x)
        x = F.dropout(x if self.pre_norm else self.norm(x), config.dropout, self.training)
        p_drop = config.p_layer_drop if self.training else 0.0
        x = through(self.layers, x, key_mask(x_len, x.shape[1]), p_drop=p_drop)
        x = self.norm(x) if self.pre_norm else x
        return Encoded(F.dropout(x, config.dropout_out, self.training), x_len)

    def _hide(self, x: Tensor, x_len: Tensor, mask: Tensor) -> Tensor:
        """Puts the learned vector in place of stretches of time, and zero in place of bands of channels."""
        config = self.config
        hidden = stretches(
            x_len, x.shape[1], config.p_time_mask, width=config.time_mask_width, least=config.min_time_masks
        )
        x = torch.where(hidden[:, :, None], mask.to(x.dtype), x)
        if config.p_channel_mask:
            whole = torch.full_like(x_len, self.d_model)
            width, least = config.channel_mask_width, config.min_channel_masks
            x = x.masked_fill(
                stretches(whole, self.d_model, config.p_channel_mask, width=width, least=least)[:, None], 0.0
            )
        return x


def stretches(x_len: Tensor, size: int, share: float, *, width: int, least: int) -> Tensor:
    """Draws stretches of ``width`` places: (B, size) bool, True in a stretch.

    An item has ``share * length / width`` of them, rounded up or down by chance, but no fewer than ``least``; they
    begin at different places, lie within the length, and may overlap.

    Args:
        x_len: (B,), the length of each item.
        size: the length of the longest.
        share: of places, were the stretches apart.
        width: places in a stretch.
        least: stretches in an item, where there is room.
    """
    if not share:
        return torch.zeros(len(x_len), size, dtype=torch.bool, device=x_len.device)
    room = (x_len - width + 1).clamp(min=0)
    chance = torch.rand((), device=x_len.device)
    count = torch.minimum((share * x_len / width + chance).long().clamp(min=least), room)
    places = torch.rand(len(x_len), size, device=x_len.device)
    places = places.masked_fill(torch.arange(size, device=x_len.device) >= room[:, None], 2.0)
    starts = places.argsort(1).argsort(1) < count[:, None]
    return F.max_pool1d(F.pad(starts[:, None].float(), (width - 1, 0)), width, 1)[:, 0] > 0
