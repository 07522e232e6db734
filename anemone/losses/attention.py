"""Cross entropy of a text's tokens, each given those before it, with smoothed labels (arXiv:1512.00567, section 7)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from anemone.config import must
from anemone.losses import Criterion, LossSum

if TYPE_CHECKING:
    from anemone.models.speech.attention_decoder import AttentionStates


@dataclass(frozen=True, kw_only=True)
class AttentionLossConfig:
    """Minus the log-probability of each token but the first, a mean over tokens."""

    label_smoothing: float = 0.0
    """Probability that the labels give to the tokens that are wrong, shared evenly among them."""

    over_prompt: bool = True
    """Whether the tokens of the prompt after the first count too, as they do in NeMo's default."""

    def __post_init__(self) -> None:
        must(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", value=self.label_smoothing)

    def build(self, head: nn.Module) -> Criterion:
        """Returns `attention_loss` with these settings.

        Args:
            head: not asked for anything.
        """

        def criterion(output: "AttentionStates", targets: Tensor, target_len: Tensor) -> LossSum:
            begin = torch.ones_like(target_len) if self.over_prompt else output.prompt_len.clamp(min=1)
            return attention_loss(output.log_probs, targets, begin, target_len, label_smoothing=self.label_smoothing)

        return criterion

    def infeasible(self, head: nn.Module, x_len: Tensor, targets: Tensor, target_len: Tensor) -> Tensor:
        """Finds no utterance: any number of tokens may be written for any number of frames."""
        return torch.zeros_like(x_len, dtype=torch.bool)


def attention_loss(
    log_probs: Tensor, targets: Tensor, begin: Tensor, target_len: Tensor, *, label_smoothing: float = 0.0
) -> LossSum:
    """Computes the summed cross entropy of the tokens from ``begin`` on, and their number.

    With smoothing e, the true one of V tokens has probability ``1 - e``, and any other ``e / (V - 1)``.

    Args:
        log_probs: (B, U, V), of what follows each token.
        targets: (B, U) tokens.
        begin: (B,) the first token of each that counts, 1 or more.
        target_len: (B,) tokens.
        label_smoothing: e.
    """
    x, labels = log_probs[:, :-1].float(), targets[:, 1:]
    at = torch.arange(1, targets.shape[1], device=targets.device)
    counts = (at >= begin[:, None]) & (at < target_len[:, None])
    share = label_smoothing * x.shape[2] / (x.shape[2] - 1)  # of the uniform distribution in the labels
    losses = -(1 - share) * x.gather(2, labels[..., None]).squeeze(2) - share * x.mean(2)
    return LossSum((losses * counts).sum(), counts.sum().to(x.dtype))
