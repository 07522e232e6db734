"""Convolutions over time and frequency, with channels last in memory: the layout that is quick on CPUs."""

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
