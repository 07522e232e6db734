"""The block of Jasper (arXiv:1904.03288), QuartzNet (arXiv:1910.10261) and Citrinet (arXiv:2104.01721) on (B, T, D)."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anemone.nn.activations import Activation, activate
from anemone.nn.depthwise import DepthwiseConv
from anemone.nn.encoded import Encoded, keep_mask
from anemone.nn.squeeze import SqueezeExcite
from anemone.types import Features, Frames, Hidden

Merge = Literal["add", "max"]


class FullConv(nn.Conv1d):
    """Convolution over time of (B, T, D), every output channel of all input channels of its group.

    Args:
        d_in: width of the input.
        d_model: width of the output.
        kernel: frames the kernel spans, odd.
        stride: step of the output, in frames.
        dilation: step of the kernel, in frames.
        look_ahead: steps of the kernel that lie in the future; half of them if None.
        groups: equal parts of the channels that do not see each other.
    """

    def __init__(
        self,
        d_in: int,
        d_model: int,
        kernel: int,
        *,
        stride: int,
        dilation: int,
        look_ahead: int | None = None,
        groups: int = 1,
    ) -> None:
        pad = dilation * (kernel // 2) if look_ahead is None else 0
        super().__init__(d_in, d_model, kernel, stride, pad, dilation, groups, bias=False)
        self.around = None if look_ahead is None else (dilation * (kernel - 1 - look_ahead), dilation * look_ahead)

    def forward(self, x: Hidden[Tensor, "B T C={self.in_channels}"]) -> Hidden[Tensor, "B T' D={self.out_channels}"]:
        """Returns every ``stride``-th frame of the convolution.

        Args:
            x: states.
        """
        x = x.transpose(1, 2)  # (B, T, C) -> (B, C, T)
        return super().forward(x if self.around is None else F.pad(x, self.around)).transpose(1, 2)


class GroupedLinear(nn.Module):
    """A matrix for each of several equal parts of the channels: (B, T, C) -> (B, T, D).

    Args:
        d_in: width of the input.
        d_model: width of the output.
        groups: number of parts.
    """

    def __init__(self, d_in: int, d_model: int, groups: int) -> None:
        super().__init__()
        self.d_in, self.d_model, self.groups = d_in, d_model, groups
        self.weight = nn.Parameter(torch.empty(d_model, d_in // groups))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Hidden[Tensor, "B T C={self.d_in}"]) -> Hidden[Tensor, "B T D={self.d_model}"]:
        """Returns the products, part after part.

        Args:
            x: states.
        """
        parts = x.view(*x.shape[:2], self.groups, -1)  # (B, T, C) -> (B, T, G, C / G)
        return torch.einsum("btgc,gdc->btgd", parts, self.weight.view(self.groups, -1, parts.shape[3])).flatten(2)


class ConvUnit(nn.Module):
    """One convolution over time and its normalisation.

    Padded frames are set to zero before each convolution, and what comes of them counts in the statistics: so Jasper's
    code does, and so published weights were trained. A batch of two equals each alone in evaluation mode only, and not
    at all with ``norm_groups``, whose statistics are always those of the padded recording, nor without ``masked``.

    Args:
        d_in: width of the input.
        d_model: width of the output.
        kernel: frames the kernel spans, odd.
        stride: step of the output, in frames.
        dilation: step of the kernel, in frames.
        separable: a depthwise convolution, then a pointwise one; else one full convolution.
        look_ahead: steps of the kernel that lie in the future; half of them if None.
        heads: number of different depthwise kernels; None for one for each channel.
        groups: parts that the channels of the other convolution are cut into, and mixed after it.
        norm_groups: parts for group normalisation (arXiv:1803.08494); None for batch normalisation.
        masked: set padded frames to zero.
    """

    def __init__(
        self,
        d_in: int,
        d_model: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        separable: bool = True,
        look_ahead: int | None = None,
        heads: int | None = None,
        groups: int = 1,
        norm_groups: int | None = None,
        masked: bool = True,
    ) -> None:
        super().__init__()
        self.d_in, self.d_model, self.kernel, self.stride = d_in, d_model, kernel, stride
        self.groups, self.masked = groups, masked
        ahead = look_ahead if look_ahead is not None and look_ahead < kernel else None
        self.depthwise = None
        if separable:
            self.depthwise = DepthwiseConv(
                d_in, kernel, stride=stride, dilation=dilation, look_ahead=ahead, heads=heads
            )
        self.pointwise: nn.Linear | GroupedLinear | FullConv
        if not separable and kernel > 1:
            self.pointwise = FullConv(
                d_in, d_model, kernel, stride=stride, dilation=dilation, look_ahead=ahead, groups=groups
            )
        else:
            self.pointwise = (
                nn.Linear(d_in, d_model, bias=False) if groups == 1 else GroupedLinear(d_in, d_model, groups)
            )
        nn.init.xavier_uniform_(self.pointwise.weight)
        self.norm: nn.BatchNorm1d | nn.GroupNorm
        self.norm = nn.BatchNorm1d(d_model, eps=1e-3) if norm_groups is None else nn.GroupNorm(norm_groups, d_model)

    def forward(self, x: Hidden[Tensor, "B T C={self.d_in}"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns the normalised convolution of the valid frames; beyond them it sees zeros.

        Args:
            x: states.
            x_len: valid frames.
        """
        x = self._kept(x, x_len)
        x_len = (x_len + self.stride - 1) // self.stride
        if self.depthwise is not None:
            x = self._kept(self.depthwise(x), x_len)
        elif self.kernel == 1:
            x = x[:, :: self.stride]
        x = self.pointwise(x)
        if isinstance(self.norm, nn.BatchNorm1d):
            y = self.norm(x.flatten(0, 1)).view(x.shape)  # (B, T, D) -> (B T, D), where it is quickest
        else:
            y = self.norm(x.transpose(1, 2)).transpose(1, 2)
        if self.groups > 1:
            y = y.reshape(*y.shape[:2], self.groups, -1).mT.flatten(2)  # a channel of each group in turn
        return Encoded(y, x_len)

    def _kept(self, x: Tensor, x_len: Tensor) -> Tensor:
        return x * keep_mask(x_len, x.shape[1]) if self.masked else x


class ConvBlock(nn.Module):
    """``repeat`` units with activation and dropout; squeeze-and-excitation and the residual before the last activation.

    Args:
        d_in: width of the input.
        d_model: width of the output.
        kernel: frames a kernel spans, odd.
        repeat: number of units.
        stride: step of each unit, in frames.
        stride_last: only the last unit has the stride.
        dilation: step of a kernel, in frames.
        separable: depthwise and pointwise convolutions, or full ones.
        residual: add the input, through a pointwise convolution of the same stride, and normalisation.
        merge: add the residual, or take the larger of the two.
        earlier: widths of inputs of the blocks before that are merged in too (dense residual, arXiv:1904.03288).
        squeeze: applied to what the last unit gives.
        dropout: share of activations dropped after each.
        activation: after each unit.
        look_ahead: steps of a kernel that lie in the future; half of them if None.
        heads: number of different depthwise kernels; None for one for each channel.
        groups: parts of the channels in pointwise and full convolutions.
        norm_groups: parts for group normalisation; None for batch normalisation.
        masked: set padded frames to zero.
    """

    def __init__(
        self,
        d_in: int,
        d_model: int,
        kernel: int,
        *,
        repeat: int = 1,
        stride: int = 1,
        stride_last: bool = False,
        dilation: int = 1,
        separable: bool = True,
        residual: bool = True,
        merge: Merge = "add",
        earlier: Sequence[int] | None = None,
        squeeze: SqueezeExcite | None = None,
        dropout: float = 0.0,
        activation: Activation = "relu",
        look_ahead: int | None = None,
        heads: int | None = None,
        groups: int = 1,
        norm_groups: int | None = None,
        masked: bool = True,
    ) -> None:
        super().__init__()
        self.d_in, self.d_model, self.dropout = d_in, d_model, dropout
        self.merge, self.activation, self.dense = merge, activation, earlier is not None
        strides = [1 if stride_last else stride] * (repeat - 1) + [stride]
        self.stride = prod(strides)
        self.units = nn.ModuleList(
            ConvUnit(
                d_model if i else d_in,
                d_model,
                kernel,
                stride=step,
                dilation=dilation,
                separable=separable,
                look_ahead=look_ahead,
                heads=heads,
                groups=groups,
                norm_groups=norm_groups,
                masked=masked,
            )
            for i, step in enumerate(strides)
        )
        self.squeeze = squeeze
        side = partial(ConvUnit, kernel=1, stride=stride, separable=False, norm_groups=norm_groups, masked=masked)
        self.earlier = nn.ModuleList(side(width, d_model) for width in earlier or ())
        self.residual = side(d_in, d_model) if residual else None

    def forward(
        self,
        x: Hidden[Tensor, "B T C={self.d_in}"],
        x_len: Frames[Tensor, "B"],
        inputs: Sequence[Hidden[Tensor, "B T C'"]] = (),
    ) -> Encoded:
        """Returns the states after the last activation; what stands at padded frames means nothing.

        Args:
            x: states.
            x_len: valid frames.
            inputs: what the blocks before were given, one for each of ``earlier``.
        """
        y, y_len = x, x_len
        for unit in self.units[:-1]:
            y, y_len = unit(y, y_len)
            y = self._activated(y)
        y, y_len = self.units[-1](y, y_len)
        if self.squeeze is not None:
            y = self.squeeze(y, y_len)
        for side, given in zip(self.earlier, inputs, strict=True):
            y = self._merged(y, side(given, x_len).x)
        if self.residual is not None:
            y = self._merged(y, self.residual(x, x_len).x)
        return Encoded(self._activated(y), y_len)

    def _merged(self, y: Tensor, side: Tensor) -> Tensor:
        return y + side if self.merge == "add" else torch.maximum(y, side)

    def _activated(self, y: Tensor) -> Tensor:
        return F.dropout(activate(y, self.activation), self.dropout, self.training)


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
        self.stride = prod(block.stride for block in blocks)

    def forward(self, x: Features[Tensor, "B F={self.num_features} T"], x_len: Frames[Tensor, "B"]) -> Encoded:
        """Returns the states of the last block; what stands at padded frames means nothing.

        Args:
            x: features of speech.
            x_len: valid frames.
        """
        x = x.transpose(1, 2)  # (B, F, T) -> (B, T, F)
        inputs: list[Tensor] = []
        for block in self.blocks:
            given = x
            x, x_len = block(x, x_len, inputs if block.dense else ())
            inputs = [*inputs, given] if block.dense else []
        return Encoded(x, x_len)
