"""Root-mean-square normalisation (arXiv:1910.07467)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.types import Hidden


class RMSNorm(nn.Module):
    """States divided by their root mean square over the width, times a learned gain.

    Example:
        >>> RMSNorm(2, eps=0.0)(torch.tensor([[[3.0, 4.0]]])).square().mean().round(decimals=4).item()
        1.0

    Args:
        d_model: width.
        eps: what is added to the mean square.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.d_model, self.eps = d_model, eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Hidden[Tensor, "B N D={self.d_model}"]) -> Hidden[Tensor, "B N D={self.d_model}"]:
        """Returns ``x / sqrt(mean(x ** 2) + eps) * weight`` in the type of ``x``.

        Args:
            x: states.
        """
        return F.rms_norm(x, (self.d_model,), self.weight, self.eps)

    def extra_repr(self) -> str:
        """Width and epsilon, as `print(module)` shows them."""
        return f"{self.d_model}, eps={self.eps}"
