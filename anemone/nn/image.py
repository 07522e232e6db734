"""Convolutions over time and frequency, with channels last in memory: the layout that is quick on CPUs."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from anemone.types import Hidden

STRETCH = 1 << 19  # numbers of the largest image that are in work at a time: 2 MiB, which a cache holds


class ImageConv(nn.Module):
    """Convolution over time and frequency; the weight is (C', C / groups, kernel, kernel) as everywhere.

    Args:
        d_in: channels of the input.
        d_model: channels of the output.
        kernel: steps along either axis.
        stride: step of the output along either axis.
        pads: zeros before and after, along either axis.
        groups: channels fall into groups that do not mix.
    """

    def __init__(
        self,
        d_in: int,
        d_model: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        pads: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.d_in, self.d_model, self.kernel, self.stride, self.pads = d_in, d_model, kernel, stride, pads
        self.groups = groups
        fan = d_in // groups * kernel * kernel
        self.weight = nn.Parameter(
            torch.empty(d_model, d_in // groups, kernel, kernel).uniform_(-(fan**-0.5), fan**-0.5)
        )
        self.bias = nn.Parameter(torch.empty(d_model).uniform_(-(fan**-0.5), fan**-0.5))

    def forward(self, x: Hidden[Tensor, "B C={self.d_in} T F"]) -> Hidden[Tensor, "B D={self.d_model} T' F'"]:
        """Returns every ``stride``-th step of the convolution.

        Args:
            x: image.
        """
        if self.kernel == 1:
            rows = x.permute(0, 2, 3, 1)  # (B, C, T, F) -> (B, T, F, C)
            out = F.linear(rows.reshape(-1, self.d_in), self.weight[:, :, 0, 0], self.bias)
            return out.view(*rows.shape[:3], self.d_model).permute(0, 3, 1, 2)
        before, after = self.pads
        if before != after:
            x = F.pad(x, (before, after, before, after))
        pad = before if before == after else 0
        weight = self.weight.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, self.bias, self.stride, pad, groups=self.groups)

    def extra_repr(self) -> str:
        """Settings, as `print(module)` shows them."""
        return f"{self.d_in}, {self.d_model}, kernel={self.kernel}, stride={self.stride}, groups={self.groups}"


def in_stretches(x: Tensor, lengths: Sequence[Sequence[int]], convs: Sequence[ImageConv]) -> Tensor:
    """Returns what convolutions give of images, each but a depthwise one with ReLU: (B, C, T', F'), padding as zeros.

    A stretch of a few frames at a time goes through all of them, in the cache, and frames of padding through none. The
    images between are not kept: the backward computes each stretch again. No gradient reaches ``x``.

    Args:
        x: images of one channel (B, T, F).
        lengths: for each image its valid frames before the first convolution and behind each.
        convs: the first from one channel, then depthwise ones and such of kernel 1, whose `ImageConv.pads` are none.
    """
    weights = [each for conv in convs for each in (_laid_out(conv), conv.bias)]
    out: Tensor = _Stretched.apply(x, lengths, convs, *weights)  # type: ignore[no-untyped-call]
    return out


def _laid_out(conv: ImageConv) -> Tensor:
    """The weight as products need it: a matrix (C K K, C'), or channels last where it is depthwise."""
    if conv.groups > 1:
        return conv.weight.contiguous(memory_format=torch.channels_last)
    return conv.weight.flatten(1).t().contiguous()


def _stretch(
    x: Tensor, lengths: Sequence[int], convs: Sequence[ImageConv], weights: Sequence[Tensor], a: int, b: int
) -> Tensor:
    """Frames ``a`` to ``b`` behind the last convolution of one image, (T, F, C): from what they need of it."""
    conv, (weight, bias) = convs[-1], weights[-2:]
    start = conv.stride * a - conv.pads[0]
    stop = conv.stride * (b - 1) - conv.pads[0] + conv.kernel
    low, high = max(start, 0), min(stop, lengths[len(convs) - 1])
    y = _stretch(x, lengths, convs[:-1], weights[:-2], low, high) if len(convs) > 1 else x[low:high, :, None]
    ends = low - start, stop - high
    if conv.groups > 1:
        pads = (0, conv.pads[0]) if ends == (0, 0) and conv.pads[0] == conv.pads[1] else (0, 0)
        y = y if pads[1] else F.pad(y, (0, 0, *conv.pads, *ends))
        image = y.unsqueeze(0).permute(0, 3, 1, 2)  # (T, F, C) -> (1, C, T, F), channels last by its strides
        return F.conv2d(image, weight, bias, conv.stride, pads, groups=conv.groups)[0].permute(1, 2, 0)
    if conv.kernel > 1:
        y = F.pad(y.squeeze(2), (*conv.pads, *ends))
        y = y.unfold(0, conv.kernel, conv.stride).unfold(1, conv.kernel, conv.stride)  # (T', F', K, K)
    out = torch.addmm(bias, y.reshape(-1, len(weight)), weight)
    return F.relu(out, inplace=True).view(*y.shape[:2], conv.d_model)


class _Stretched(torch.autograd.Function):
    """`in_stretches` of weights."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Hidden[Tensor, "B T F"],
        lengths: "Annotated[Sequence[Sequence[int]], Hidden[Tensor, '']]",
        convs: "Annotated[Sequence[ImageConv], Hidden[Tensor, '']]",
        *weights: Tensor,
    ) -> Hidden[Tensor, "B C T' F'"]:
        ctx.lengths, ctx.convs = lengths, convs
        ctx.save_for_backward(x, *weights)
        frames, bins = (_sizes(size, convs)[-1] for size in x.shape[1:])
        out = x.new_zeros(len(x), frames, bins, convs[-1].d_model)
        for i, a, b in _stretches(x, lengths, convs):
            out[i, a:b] = _stretch(x[i], lengths[i], convs, weights, a, b)
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        weights = [each.detach().requires_grad_() for each in saved]
        totals = [torch.zeros_like(each) for each in weights]
        grad = grad.permute(0, 2, 3, 1).contiguous()  # (B, C, T, F) -> (B, T, F, C)
        for i, a, b in _stretches(x, ctx.lengths, ctx.convs):
            with torch.enable_grad():
                y = _stretch(x[i], ctx.lengths[i], ctx.convs, weights, a, b)
            for total, part in zip(totals, torch.autograd.grad(y, weights, grad[i, a:b]), strict=True):
                total += part
        return None, None, None, *totals


def _sizes(size: int, convs: Sequence[ImageConv]) -> list[int]:
    """Steps along an axis behind each convolution."""
    sizes = [size]
    for conv in convs:
        sizes.append((sizes[-1] + sum(conv.pads) - conv.kernel) // conv.stride + 1)
    return sizes[1:]


def _stretches(
    x: Tensor, lengths: Sequence[Sequence[int]], convs: Sequence[ImageConv]
) -> Iterator[tuple[int, int, int]]:
    """Cuts the valid frames of the output so that the largest image of a stretch fits."""
    frames, most = 1, 1
    for conv, bins in zip(reversed(convs), reversed(_sizes(x.shape[2], convs)), strict=True):
        most = max(most, frames * bins * conv.d_model)
        frames *= conv.stride
    step = max(1, STRETCH // most)
    for i, (*_, valid) in enumerate(lengths):
        yield from ((i, a, min(a + step, valid)) for a in range(0, valid, step))
