"""What a model is trained to make small. A loss is a function that returns a sum and what to divide it by.

The engine adds sums and counts over micro-batches and ranks before it divides, so a step of two processes has the loss
of one. All losses compute in float32, also under autocast.

The config of a recogniser's loss makes a `Criterion` by ``build(head)``; its
``infeasible(head, x_len, targets, target_len)`` finds (B,) the utterances that no alignment fits.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

LOSSES = {
    "attention": "anemone.losses.attention:AttentionLossConfig",
    "cross_entropy": "anemone.losses.cross_entropy:CrossEntropyConfig",
    "ctc": "anemone.losses.ctc:CTCConfig",
    "hybrid": "anemone.losses.hybrid:HybridLossConfig",
    "multi_blank": "anemone.losses.transducer:MultiBlankConfig",
    "rnnt": "anemone.losses.transducer:RNNTConfig",
    "tdt": "anemone.losses.transducer:TDTConfig",
    "token_cross_entropy": "anemone.losses.token_cross_entropy:TokenCrossEntropyConfig",
}


class LossSum(NamedTuple):
    """A loss as two scalars that add: its value is ``total / count``."""

    total: "Tensor"
    """Sum of the losses, float32, differentiable."""

    count: "Tensor"  # type: ignore[assignment]  # a tuple has a method of that name
    """What the sum is divided by, float32: items, tokens or frames."""


Criterion = Callable[[Any, "Tensor", "Tensor"], LossSum]
"""From what the head of a recogniser gives, targets (B, U) and their lengths (B,) to the loss."""
