"""Cross entropy between scores and classes, with label smoothing (arXiv:1512.00567, section 7)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from anemone.config import must
from anemone.losses import LossSum

CrossEntropy = Callable[[Tensor, Tensor], LossSum]


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig:
    """Minus the log-probability of the right class."""

    smoothing: float = 0.0
    """Share of the probability that is taken from the right class and spread evenly over the others."""

    def __post_init__(self) -> None:
        must(0 <= self.smoothing < 0.5, "smoothing", "at least 0 and below 0.5", value=self.smoothing)

    def build(self) -> CrossEntropy:
        """Returns `cross_entropy` with this smoothing."""
        return partial(cross_entropy, smoothing=self.smoothing)


def cross_entropy(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, keep_mask: Tensor | None = None
) -> LossSum:
    """Computes ``-(1 - s) log p[target] - s mean(log p[others])`` of each item, summed, and the number of items.

    Args:
        logits: (B, V) or (B, U, V), before or after a log-softmax.
        targets: (B,) or (B, U), class indices.
        smoothing: s, below 0.5.
        keep_mask: like ``targets``, True where an item counts; all by default.
    """
    with torch.autocast(logits.device.type, enabled=False):
        x = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)  # (B, U, V) -> (B * U, V)
        over_all = smoothing * x.shape[-1] / max(x.shape[-1] - 1, 1)  # PyTorch spreads over the right class as well
        losses = F.cross_entropy(x, targets.flatten(), reduction="none", label_smoothing=over_all)
    keep = torch.ones_like(losses) if keep_mask is None else keep_mask.flatten().to(losses.dtype)
    return LossSum((losses * keep).sum(), keep.sum())
