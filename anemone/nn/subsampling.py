"""Sub-sampling of features over time, before an encoder of attention: by convolutions, or by stacking frames.

    striding          3x3 convolutions of stride 2 over time and frequency (Speech-Transformer)
    dw_striding       the same, depthwise separable after the first (FastConformer, arXiv:2305.05084)
    vggnet            pairs of 3x3 convolutions and 2x2 max-pooling (arXiv:1910.12977)
    striding_conv1d   convolutions over time of width 5 and stride 2, bins as channels
    dw_striding_conv1d  the same, depthwise separable
    stacking          frames side by side through one matrix
    stacking_norm     the same, each frame normalised first

Frames beyond the length count as zero before every convolution, so padding changes nothing. A factor of ``2 ** n`` is
``n`` stages.
"""

from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anemone.nn.encoded import Encoded, keep_mask
from anemone.nn.image import ImageConv, in_stretches
from anemone.types import Frames, Hidden

Convolutional = Literal["striding", "dw_striding", "vggnet", "striding_conv1d", "dw_striding_conv1d"]


def half(x_len: Tensor, causal: bool) -> Tensor:
    """Returns the lengths after one stage: ``ceil(n / 2)``, or ``n // 2 + 1`` where no frame looks ahead.

    Args:
        x_len: lengths before it.
        causal: whether it is padded in the past only.
    """
    return x_len // 2 + 1 if causal else (x_len + 1) // 2


class ImageSubsampling(nn.Module):
    """Convolutions over time and frequency, and a matrix from all that is left of the bins to the width.

    Example:
        >>> sample = ImageSubsampling(80, 176, kind="dw_striding", factor=8, channels=256)
        >>> x, x_len = sample(torch.zeros(1, 801, 80), torch.tensor([801]))
        >>> x.shape, x_len
        (torch.Size([1, 101, 176]), tensor([101]))

    Args:
        num_features: feature bins.
        d_model: width of the output.
        kind: "striding", "dw_striding" or "vggnet".
        factor: frames that become one, a power of 2.
        channels: of the convolutions.
        causal: pad two steps before and one after, so that little is seen of the future; not for "vggnet".
    """

    def __init__(
        self, num_features: int, d_model: int, *, kind: Convolutional, factor: int, channels: int, causal: bool = False
    ) -> None:
        super().__init__()
        assert factor >= 2 and factor.bit_count() == 1, factor
        assert kind in ("striding", "dw_striding", "vggnet"), kind
        self.num_features, self.d_model, self.causal = num_features, d_model, causal
        self.pools, self.separable = kind == "vggnet", kind == "dw_striding"
        pads = (1, 1) if not causal else (2, 1)
        stages: list[nn.ModuleList] = []
        d_in, bins = 1, num_features
        for stage in range(factor.bit_length() - 1):
            if kind == "vggnet":
                convs = [ImageConv(d_in, channels), ImageConv(channels, channels)]
            elif kind == "dw_striding" and stage:
                convs = [
                    ImageConv(channels, channels, stride=2, pads=pads, groups=channels),
                    ImageConv(channels, channels, kernel=1, pads=(0, 0)),
                ]
            else:
                convs = [ImageConv(d_in, channels, stride=2, pads=pads)]
            stages.append(nn.ModuleList(convs))
            d_in, bins = channels, bins // 2 + 1 if causal else (bins + 1) // 2
        self.stages = nn.ModuleList(stages)
        self.output = nn.Linear(channels * bins, d_model)

    def forward(self, x: Hidden[Tensor, "B T F={self.num_features}"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns a frame for every ``factor`` frames.

        Args:
            x: features.
            x_len: valid frames.
        """
        y, x_len = self.divided(x, x_len) if self.divides(x) else self.convolved(x, x_len)
        return Encoded(self.output(y.transpose(1, 2).flatten(2)), x_len)  # (B, C, T, F) -> (B, T, C F)

    def divides(self, x: Tensor) -> bool:
        """Whether it is quicker to convolve in stretches: on a CPU, where no weight has to be put in another order."""
        plain = type(x) is Tensor and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        return plain and self.separable and not x.requires_grad and not torch.compiler.is_compiling()

    def divided(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """All convolutions of features (B, T, F), and lengths: by `in_stretches`."""
        convs = [conv for conv in self.stages.modules() if isinstance(conv, ImageConv)]
        lengths = [x_len.clamp(0, x.shape[1])]
        for conv in convs:
            lengths.append(half(lengths[-1], self.causal) if conv.stride > 1 else lengths[-1])
        return in_stretches(x, torch.stack(lengths, 1).tolist(), convs), lengths[-1]

    def convolved(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """All convolutions of features (B, T, F), and lengths: one after the other, with pooling."""
        y = x if whole(x_len, x.shape[1]) else x * keep_mask(x_len, x.shape[1])
        y = y.unsqueeze(3).permute(0, 3, 1, 2)  # (B, T, F) -> (B, C = 1, T, F), by its strides channels last
        for stage in self.stages:
            for conv in [conv for conv in stage.children() if isinstance(conv, ImageConv)]:
                y = conv(y)
                if conv.stride > 1:
                    x_len = half(x_len, self.causal)
                if conv.groups == 1:
                    y = rectified(y, x_len)
            if self.pools:
                y = F.max_pool2d(y, 2, ceil_mode=True)
                x_len = half(x_len, False)
        return y, x_len


def rectified(x: Tensor, x_len: Tensor) -> Tensor:
    """Returns the ReLU of an image (B, C, T, F), zero beyond the lengths; written over the image.

    Where the ReLU gives zero it hands no gradient on, so setting to zero before it needs none of its own.

    Args:
        x: image.
        x_len: valid frames.
    """
    if not whole(x_len, x.shape[2]):
        keep = keep_mask(x_len, x.shape[2]).unsqueeze(1)  # (B, 1, T, 1)
        if torch.compiler.is_compiling():
            return F.relu(x * keep)
        with torch.no_grad():
            x.mul_(keep)
    return F.relu(x, inplace=True)


def whole(x_len: Tensor, num_frames: int) -> bool:
    """Whether it is known that no item is padded: on a CPU, where asking costs nothing, and outside compilation.

    Args:
        x_len: valid frames.
        num_frames: of the longest item.
    """
    if torch.compiler.is_compiling() or x_len.device.type != "cpu":
        return False
    return bool((x_len >= num_frames).all())


class FrameSubsampling(nn.Module):
    """Convolutions over time of width 5 and stride 2, each with ReLU; the last gives the width.

    Args:
        num_features: feature bins.
        d_model: width of the output.
        kind: "striding_conv1d" or "dw_striding_conv1d".
        factor: frames that become one, a power of 2.
        channels: of all convolutions but the last.
        causal: pad four steps before and one after; for "striding_conv1d" only.
    """

    def __init__(
        self, num_features: int, d_model: int, *, kind: Convolutional, factor: int, channels: int, causal: bool = False
    ) -> None:
        super().__init__()
        assert factor >= 2 and factor.bit_count() == 1, factor
        assert kind in ("striding_conv1d", "dw_striding_conv1d"), kind
        self.num_features, self.d_model, self.causal = num_features, d_model, causal
        num_stages = factor.bit_length() - 1
        widths = [num_features, *[channels] * (num_stages - 1), d_model]
        self.stages = nn.ModuleList()
        for d_in, d_out in pairwise(widths):
            if kind == "striding_conv1d":
                convs = [nn.Conv1d(d_in, d_out, 5, 2)]
            else:
                convs = [nn.Conv1d(d_in, d_in, 5, 2, groups=d_in), nn.Conv1d(d_in, d_out, 1)]
            self.stages.append(nn.ModuleList(convs))

    def forward(self, x: Hidden[Tensor, "B T F={self.num_features}"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns a frame for every ``factor`` frames.

        Args:
            x: features.
            x_len: valid frames.
        """
        for stage in self.stages:
            x = x * keep_mask(x_len, x.shape[1])
            y = F.pad(x, (0, 0, 4, 1) if self.causal else (0, 0, 2, 2)).transpose(1, 2)  # (B, T, D) -> (B, D, T)
            for conv in stage.children():
                y = conv(y)
            x = F.relu(y.transpose(1, 2))
            x_len = half(x_len, self.causal)
        return Encoded(x, x_len)


class Stacking(nn.Module):
    """Puts every ``factor`` frames side by side, through one matrix.

    Args:
        num_features: feature bins.
        d_model: width of the output.
        factor: frames that become one.
        normalise: normalise each frame over its bins first.
        even: NeMo's lengths, which leave out a last stack that is not full where the longest item fills its own.
    """

    def __init__(
        self, num_features: int, d_model: int, *, factor: int, normalise: bool = False, even: bool = False
    ) -> None:
        super().__init__()
        self.num_features, self.d_model, self.factor, self.even = num_features, d_model, factor, even
        self.norm = nn.LayerNorm(num_features) if normalise else None
        self.output = nn.Linear(num_features * factor, d_model)

    def forward(self, x: Hidden[Tensor, "B T F={self.num_features}"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns a frame for every ``factor`` frames.

        Args:
            x: features.
            x_len: valid frames.
        """
        pad = -x.shape[1] % self.factor
        x = F.pad(x * keep_mask(x_len, x.shape[1]), (0, 0, 0, pad))
        if self.norm is not None:
            x = self.norm(x)
        x = x.reshape(x.shape[0], -1, self.factor * self.num_features)  # (B, T, F) -> (B, T', F factor)
        x_len = (x_len + (pad if self.even else self.factor - 1)) // self.factor
        return Encoded(self.output(x), x_len)


def subsampling(
    num_features: int, d_model: int, *, kind: str, factor: int, channels: int, causal: bool, even: bool = False
) -> ImageSubsampling | FrameSubsampling | Stacking:
    """Builds the module of a kind.

    Args:
        num_features: feature bins.
        d_model: width of the output.
        kind: see the top of the file.
        factor: frames that become one.
        channels: of convolutions.
        causal: whether convolutions are padded in the past.
        even: of `Stacking`.
    """
    if kind in ("stacking", "stacking_norm"):
        return Stacking(num_features, d_model, factor=factor, normalise=kind == "stacking_norm", even=even)
    found: Convolutional = next(name for name in get_args(Convolutional) if name == kind)
    cls = FrameSubsampling if found.endswith("conv1d") else ImageSubsampling
    return cls(num_features, d_model, kind=found, factor=factor, channels=channels, causal=causal)


class Reduction(nn.Module):
    """A second sub-sampling, of states.

    Args:
        d_model: width.
        kind: "pooling" or "striding".
        factor: frames that become one, a power of 2.
    """

    def __init__(self, d_model: int, kind: str, factor: int) -> None:
        super().__init__()
        self.d_model, self.factor = d_model, factor
        self.convs = None
        if kind == "striding":
            self.convs = subsampling(d_model, d_model, kind=kind, factor=factor, channels=d_model, causal=False)

    def forward(self, x: Hidden[Tensor, "B T D={self.d_model}"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns a frame for every ``factor`` frames.

        Args:
            x: states.
            x_len: valid frames.
        """
        if self.convs is not None:
            out: Encoded = self.convs(x, x_len)
            return out
        return Encoded(F.max_pool1d(x.transpose(1, 2), self.factor).transpose(1, 2), x_len // self.factor)
