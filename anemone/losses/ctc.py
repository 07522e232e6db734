"""CTC: minus the log-probability of all alignments of a text to the frames (Graves et al., ICML 2006)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from anemone.config import must
from anemone.losses import Criterion, LossSum

Reduction = Literal["mean_batch", "mean_volume", "mean"]


@dataclass(frozen=True, kw_only=True)
class CTCConfig:
    """Connectionist temporal classification, with the blank as the last index."""

    reduction: Reduction = "mean_batch"
    """What the loss is a mean over: utterances (mean_batch), target tokens (mean_volume), or utterances after each
    was divided by its number of tokens (mean)."""

    intermediate_weights: tuple[float, ...] = ()
    """Shares of the losses of inner layers of the encoder, one for each of `model.tap_layers` (arXiv:2102.03216)."""

    def __post_init__(self) -> None:
        check_shares(self.intermediate_weights)

    def build(self, head: Any) -> Criterion:
        """Returns `ctc_loss` with this reduction, and that of inner layers.

        Args:
            head: has ``label_scores``, which tells what of its output CTC reads.
        """

        def criterion(output: Any, targets: Tensor, target_len: Tensor) -> LossSum:
            scores = head.label_scores(output)
            loss = ctc_loss(scores.x, scores.x_len, targets, target_len, reduction=self.reduction)
            return self.with_inner(loss, self.intermediate_weights, scores, targets, target_len)

        return criterion

    def with_inner(
        self, loss: LossSum, shares: tuple[float, ...], scores: Any, targets: Tensor, target_len: Tensor
    ) -> LossSum:
        """Computes ``(1 - sum(shares)) * loss`` and a share of the CTC loss of each inner layer.

        Args:
            loss: of the last layer, of whatever kind.
            shares: one for each inner layer.
            scores: of labels, of inner layers too.
            targets: (B, U) tokens.
            target_len: (B,) tokens.

        Raises:
            ConfigError: the encoder gives another number of inner layers.
        """
        if not shares:
            return loss
        number = 0 if scores.inner is None else len(scores.inner)
        rule = f"as many as `model.tap_layers`, which are {number}"
        must(len(shares) == number, "loss.intermediate_weights", rule, value=shares)
        total = (1 - sum(shares)) * loss.total
        for share, x in zip(shares, scores.inner, strict=True):
            inner = ctc_loss(x, scores.x_len, targets, target_len, reduction=self.reduction)
            total = total + share * loss.count / inner.count.clamp(min=1) * inner.total
        return LossSum(total, loss.count)

    def infeasible(self, head: Any, x_len: Tensor, targets: Tensor, target_len: Tensor) -> Tensor:
        """Finds the utterances that no alignment fits, whatever the head; see `infeasible`."""
        return infeasible(x_len, targets, target_len)


def check_shares(shares: tuple[float, ...]) -> None:
    """Checks the shares of the losses of inner layers.

    Raises:
        ConfigError: they leave nothing for the last layer.
    """
    fits = all(share >= 0 for share in shares) and sum(shares) < 1
    must(fits, "intermediate_weights", "0 or more each, and below 1 in all", value=shares)


def ctc_loss(
    log_probs: Tensor, log_probs_len: Tensor, targets: Tensor, target_len: Tensor, *, reduction: Reduction
) -> LossSum:
    """Computes ``-log P(targets | log_probs)`` of each utterance, summed, and what to divide the sum by.

    An utterance with fewer frames than its text needs (see `infeasible`) adds zero and still counts, as in NeMo.

    Args:
        log_probs: (B, T, V), log-softmax outputs; index V - 1 is the blank. The gradient is right only through a
            log-softmax, since PyTorch takes the shortcut through it.
        log_probs_len: (B,) frames.
        targets: (B, U) tokens below V - 1.
        target_len: (B,) tokens, zero allowed.
        reduction: see `CTCConfig.reduction`.
    """
    with torch.autocast(log_probs.device.type, enabled=False):
        x = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32)).transpose(0, 1)  # (B, T, V) -> (T, B, V)
        blank = log_probs.shape[-1] - 1
        losses = F.ctc_loss(x, targets, log_probs_len, target_len, blank=blank, reduction="none", zero_infinity=True)
    return reduced(losses, target_len, reduction)


def reduced(losses: Tensor, target_len: Tensor, reduction: Reduction) -> LossSum:
    """Sums the losses (B,) of utterances, and says what to divide the sum by.

    Args:
        losses: one for each utterance.
        target_len: (B,) tokens.
        reduction: see `CTCConfig.reduction`.
    """
    if reduction == "mean":
        losses = losses / target_len.clamp(min=1)
    divisor = target_len.sum() if reduction == "mean_volume" else target_len.new_full((), len(target_len))
    return LossSum(losses.sum(), divisor.to(losses.dtype))


def infeasible(log_probs_len: Tensor, targets: Tensor, target_len: Tensor) -> Tensor:
    """Finds the utterances that no alignment fits: a token needs a frame, and a repeated token a blank before it.

    Args:
        log_probs_len: (B,) frames.
        targets: (B, U) tokens.
        target_len: (B,) tokens.

    Returns:
        (B,) bool.
    """
    positions = torch.arange(1, max(targets.shape[1], 1), device=targets.device)
    repeats = (targets[:, 1:] == targets[:, :-1]) & (positions < target_len[:, None])
    return log_probs_len < target_len + repeats.sum(1)
