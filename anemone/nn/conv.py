"""The convolutional block of Jasper (arXiv:1904.03288) and QuartzNet (arXiv:1910.10261) on (B, T, D)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from anemone.nn.depthwise import DepthwiseConv
from anemone.nn.encoded import Encoded, keep_mask
from anemone.types import Features, Frames, Hidden


class FullConv(nn.Conv1d):
    """Convolution over time of (B, T, D), every output channel of all input channels.

    Args:
        d_in: width of the input.
        d_model: width of the output.
        kernel: frames the kernel spans, odd.
        stride: step of the output, in frames.
        dilation: step of the kernel, in frames.
    """

    def __init__(self, d_in: int, d_model: int, kernel: int, *, stride: int, dilation: int) -> None:
        pad = dilation * (kernel // 2)
        super().__init__(d_in, d_model, kernel, stride, pad, dilation, bias=False)

    def forward(self, x: Hidden[Tensor, "B T C={self.in_channels}"]) -> Hidden[Tensor, "B T' D={self.out_channels}"]:
        """Returns every ``stride``-th frame of the convolution.

        Args:
            x: states.
        """
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ConvUnit(nn.Module):
    """One convolution over time and its batch normalisation.

    Padded frames are set to zero before each convolution, and what comes of them counts in the statistics: so Jasper's
    code does, and so published weights were trained. A batch of two equals each alone in evaluation mode only.

    Args:
        d_in: width of the input.
        d_model: width of the output.
        kernel: frames the kernel spans, odd.
        stride: step of the output, in frames.
        dilation: step of the kernel, in frames.
        separable: a depthwise convolution, then a pointwise one; else one full convolution.
    """

    def __init__(
        self, d_in: int, d_model: int, kernel: int, *, stride: int = 1, dilation: int = 1, separable: bool = True
    ) -> None:
        super().__init__()
        assert kernel > 1 or stride == 1, (kernel, stride)
        self.d_in, self.d_model, self.kernel, self.stride = d_in, d_model, kernel, stride
        self.depthwise = DepthwiseConv(d_in, kernel, stride=stride, dilation=dilation) if separable else None
        self.pointwise: nn.Linear | FullConv
        if separable or kernel == 1:
            self.pointwise = nn.Linear(d_in, d_model, bias=False)
        else:
            self.pointwise = FullConv(d_in, d_model, kernel, stride=stride, dilation=dilation)
        nn.init.xavier_uniform_(self.pointwise.weight)
        self.norm = nn.BatchNorm1d(d_model, eps=1e-3)

    def forward(self, x: Hidden[Tensor, "B T C={self.d_in}"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns the normalised convolution of the valid frames; beyond them it sees zeros.

        Args:
            x: states.
            x_len: valid frames.
        """
        x = x * keep_mask(x_len, x.shape[1])
        x_len = (x_len + self.stride - 1) // self.stride
        if self.depthwise is not None:
            x = self.depthwise(x)
            x = x * keep_mask(x_len, x.shape[1])
        x = self.pointwise(x)
        y = self.norm(x.flatten(0, 1)).view(x.shape)  # (B, T, D) -> (B T, D), where it is quickest
        return Encoded(y, x_len)


class ConvBlock(nn.Module):
    """``repeat`` units with ReLU and dropout, the input added before the last ReLU if ``residual``.

    Args:
        d_in: width of the input.
        d_model: width of the output.
        kernel: frames a kernel spans, odd.
        repeat: number of units.
        stride: step of each unit, in frames.
        dilation: step of a kernel, in frames.
        separable: depthwise and pointwise convolutions, or full ones.
        residual: add the input, through a pointwise convolution and batch normalisation.
        dropout: share of activations dropped after each ReLU.
    """

    def __init__(
        self,
        d_in: int,
        d_model: int,
        kernel: int,
        *,
        repeat: int = 1,
        stride: int = 1,
        dilation: int = 1,
        separable: bool = True,
        residual: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.d_in, self.d_model, self.dropout = d_in, d_model, dropout
        self.units = nn.ModuleList(
            ConvUnit(d_model if i else d_in, d_model, kernel, stride=stride, dilation=dilation, separable=separable)
            for i in range(repeat)
        )
        self.residual = ConvUnit(d_in, d_model, 1, separable=False) if residual else None

    def forward(self, x: Hidden[Tensor, "B T C={self.d_in}"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns the states after the last ReLU; what stands at padded frames means nothing.

        Args:
            x: states.
            x_len: valid frames.
        """
        y, y_len = x, x_len
        last = len(self.units) - 1
        for i, unit in enumerate(self.units):
            y, y_len = unit(y, y_len)
            if i == last and self.residual is not None:
                y = y + self.residual(x, x_len).x
            y = F.dropout(F.relu(y, inplace=True), self.dropout, self.training)
        return Encoded(y, y_len)


class ConvStack(nn.Module):
    """Blocks one after the other, from features (B, F, T) to states (B, T', D).

    Args:
        num_features: feature bins, F.
        blocks: `ConvBlock`s whose widths follow on each other.
    """

    def __init__(self, num_features: int, blocks: Sequence[ConvBlock]) -> None:
        super().__init__()
        self.num_features = num_features
        self.blocks = nn.ModuleList(blocks)
        self.d_model = blocks[-1].d_model

    def forward(self, x: Features[Tensor, "B F={self.num_features} T"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns the states of the last block; what stands at padded frames means nothing.

        Args:
            x: features of speech.
            x_len: valid frames.
        """
        x = x.transpose(1, 2)  # (B, F, T) -> (B, T, F)
        for block in self.blocks:
            x, x_len = block(x, x_len)
        return Encoded(x, x_len)
