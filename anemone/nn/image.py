"""Convolutions over time and frequency on (B, T, F, C), channels last: the layout that is quick on CPUs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anemone.types import Hidden


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

    def forward(self, x: Hidden[Tensor, "B T F C={self.d_in}"]) -> Hidden[Tensor, "B T' F' D={self.d_model}"]:
        """Returns every ``stride``-th step of the convolution.

        Args:
            x: image.
        """
        if self.kernel == 1:
            return F.linear(x, self.weight[:, :, 0, 0], self.bias)
        before, after = self.pads
        image = x.permute(0, 3, 1, 2)  # (B, T, F, C) -> (B, C, T, F), channels last
        if before != after:
            image = F.pad(image, (before, after, before, after))
        pad = before if before == after else 0
        weight = self.weight.contiguous(memory_format=torch.channels_last)
        return F.conv2d(image, weight, self.bias, self.stride, pad, groups=self.groups).permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        """Settings, as `print(module)` shows them."""
        return f"{self.d_in}, {self.d_model}, kernel={self.kernel}, stride={self.stride}, groups={self.groups}"
