"""Transducer losses: minus the log-probability of all ways to write a text while the frames pass.

RNN-T (arXiv:1211.3711), TDT, whose tokens say how many frames they last (arXiv:2304.06795), and multi-blank
transducers, whose blanks may skip several frames (arXiv:2211.03541), are one lattice with other arcs. Channels of the
scores are tokens, big blanks (the last of them first), the blank, durations. Scores are read a slab at a time and only
the few that an alignment can use are kept; padding is not even looked at. The gradient is exact: the share of the
probability that goes through each arc, carried through the softmax.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from anemone.config import kind_of, must
from anemone.losses import LOSSES, Criterion, LossSum
from anemone.losses.ctc import Reduction, reduced
from anemone.losses.slabs import Fused, Given, Kind, Problem, Texts


@dataclass(frozen=True, kw_only=True)
class RNNTConfig:
    """Transducers whose blank advances one frame (arXiv:1211.3711)."""

    reduction: Reduction = "mean_batch"
    """What the loss is a mean over: utterances (mean_batch), target tokens (mean_volume), or utterances after each
    was divided by its number of tokens (mean)."""

    fastemit: float = 0.0
    """Share by which gradients of tokens, and the loss, grow, so that tokens come early (arXiv:2010.11148)."""

    clamp: float = 0.0
    """Largest gradient of a score, before the loss is reduced; 0 for no limit."""

    def __post_init__(self) -> None:
        must(self.fastemit >= 0, "fastemit", "0 or more", value=self.fastemit)
        must(self.clamp >= 0, "clamp", "0 or more", value=self.clamp)

    def build(self, head: Any) -> Criterion:
        """Returns `fused_transducer_loss` of what the head gives, with these settings.

        Args:
            head: has a ``joint``, ``durations`` and ``big_blanks``.

        Raises:
            ConfigError: the head is that of another loss.
        """
        fits = kind_for(head)
        rule = f"{fits} for a head with durations {list(head.durations)} and big blanks {list(head.big_blanks)}"
        own = kind_of(LOSSES, self)
        must(own == fits, "loss.kind", rule, value=own)
        settings: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "reduction"}
        settings |= {"durations": tuple(head.durations), "big_blanks": tuple(head.big_blanks)}

        def criterion(output: Any, targets: Tensor, target_len: Tensor) -> LossSum:
            x, predicted, x_len = output.x, output.predicted, output.x_len
            losses = fused_transducer_loss(x, predicted, head.joint, x_len, targets, target_len, **settings)
            return reduced(losses, target_len, self.reduction)

        return criterion

    def infeasible(self, head: Any, x_len: Tensor, targets: Tensor, target_len: Tensor) -> Tensor:
        """Finds the utterances that no alignment fits, see `infeasible`."""
        return infeasible(x_len, target_len, tuple(head.durations))


@dataclass(frozen=True, kw_only=True)
class TDTConfig(RNNTConfig):
    """Token-and-duration transducers (arXiv:2304.06795)."""

    sigma: float = 0.0
    """What is taken from each log-probability of a token or blank, so that ways with few of them pay less."""

    omega: float = 0.0
    """Probability that a batch is trained by the plain RNN-T loss, which leaves the durations out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(self.sigma >= 0, "sigma", "0 or more", value=self.sigma)
        must(0 <= self.omega <= 1, "omega", "between 0 and 1", value=self.omega)


@dataclass(frozen=True, kw_only=True)
class MultiBlankConfig(RNNTConfig):
    """Transducers with blanks that skip several frames (arXiv:2211.03541)."""

    sigma: float = 0.0
    """What is taken from each log-probability, so that ways with few steps, by big blanks, pay less."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(self.sigma >= 0, "sigma", "0 or more", value=self.sigma)


def kind_for(head: Any) -> str:
    """Returns the kind of loss that fits a head, by its ``durations`` and ``big_blanks``."""
    return "tdt" if head.durations else "multi_blank" if head.big_blanks else "rnnt"


def transducer_loss(
    logits: Tensor,
    x_len: Tensor,
    targets: Tensor,
    target_len: Tensor,
    *,
    durations: tuple[int, ...] = (),
    big_blanks: tuple[int, ...] = (),
    sigma: float = 0.0,
    fastemit: float = 0.0,
    clamp: float = 0.0,
    omega: float = 0.0,
) -> Tensor:
    """Computes ``-log P(targets | logits)`` of each utterance from the scores of all nodes.

    Example:
        >>> logits = torch.zeros(1, 2, 2, 4)  # two frames, one token, four scores: a way has three steps
        >>> loss = transducer_loss(logits, torch.tensor([2]), torch.tensor([[0]]), torch.tensor([1]))
        >>> round((-loss).exp().item() * 4**3)  # the token comes in the first frame or in the second
        2

    Args:
        logits: (B, T, U + 1, V + 1 + big blanks + durations), scores, before or after a log-softmax.
        x_len: (B,) frames.
        targets: (B, U) tokens below V.
        target_len: (B,) tokens, zero allowed.
        durations: frames that a token or blank may last; with them the loss is TDT.
        big_blanks: frames that each big blank skips, 2 or more; with them the loss is that of multi-blank transducers.
        sigma: what is taken from each log-probability of a token or blank, so that ways of few steps pay less.
        fastemit: gradients of tokens grow by this share, and the loss with them (arXiv:2010.11148, equation 10).
        clamp: largest gradient of a score, before the loss is reduced; 0 for no limit.
        omega: probability that the loss is plain RNN-T this time, without sigma; drawn by PyTorch's generator of the
            CPU, once a call, and only where gradients are on.

    Returns:
        (B,) losses, float32 or float64 as the scores; zero, with no gradient, where no alignment fits (`infeasible`).
    """
    kind = _drawn(Kind(durations, big_blanks, sigma, fastemit, clamp), omega)
    texts = Texts.of(logits.shape[1], logits.shape[2], x_len, targets, target_len)
    losses: Tensor = Given.apply(Problem(kind, texts, torch.is_grad_enabled()), logits)  # type: ignore[no-untyped-call]
    return losses


def fused_transducer_loss(
    x: Tensor,
    predicted: Tensor,
    joint: nn.Module,
    x_len: Tensor,
    targets: Tensor,
    target_len: Tensor,
    *,
    durations: tuple[int, ...] = (),
    big_blanks: tuple[int, ...] = (),
    sigma: float = 0.0,
    fastemit: float = 0.0,
    clamp: float = 0.0,
    omega: float = 0.0,
) -> Tensor:
    """Computes `transducer_loss` of ``joint(x + predicted)``, of which only a slab exists at a time.

    The backward computes each slab again, in the same autocast and with the same random numbers (dropout).

    Args:
        x: (B, T, J), what the encoder says of each frame.
        predicted: (B, U + 1, J), what the predictor says after each token.
        joint: from sums of both, (..., J), to scores (..., V'); works on each node alone. Its parameters get gradients.
        x_len: (B,) frames.
        targets: (B, U) tokens.
        target_len: (B,) tokens.
        durations: see `transducer_loss`, as all that follow.
        big_blanks: frames that each big blank skips.
        sigma: what is taken from each log-probability.
        fastemit: share by which gradients of tokens grow.
        clamp: largest gradient of a score.
        omega: probability of plain RNN-T.
    """
    kind = _drawn(Kind(durations, big_blanks, sigma, fastemit, clamp), omega)
    texts = Texts.of(x.shape[1], predicted.shape[1], x_len, targets, target_len)
    params = [p for p in joint.parameters() if p.requires_grad]
    problem = Problem(kind, texts, torch.is_grad_enabled())
    losses: Tensor = Fused.apply(problem, joint, x, predicted, *params)  # type: ignore[no-untyped-call]
    return losses


def _drawn(kind: Kind, omega: float) -> Kind:
    """The kind of this call: the given one, or plain RNN-T, which leaves the durations out."""
    durations, blanks = kind.durations, (1, *kind.big_blanks)
    assert not (durations and kind.big_blanks), "durations and big blanks do not go together"
    assert len({*durations}) == len(durations) and min(durations, default=0) >= 0, (
        f"durations must be unlike: {durations}"
    )
    assert not durations or max(durations) > 0, f"durations must be such that a blank can advance, not {durations}"
    assert len({*blanks}) == len(blanks) and min(blanks) > 0, f"big blanks must be unlike and skip frames: {blanks}"
    if omega and torch.is_grad_enabled() and torch.rand(()).item() < omega:
        return Kind(fastemit=kind.fastemit, clamp=kind.clamp, unused=len(kind.durations))
    return kind


def infeasible(x_len: Tensor, target_len: Tensor, durations: tuple[int, ...] = ()) -> Tensor:
    """Finds the utterances that no alignment fits: none without a frame, and those that durations cannot add up to.

    Args:
        x_len: (B,) frames.
        target_len: (B,) tokens.
        durations: those of TDT.

    Returns:
        (B,) bool.
    """
    durations = durations or (0, 1)
    if 1 in durations:  # blanks of one frame fill up what the shortest tokens leave
        return x_len <= target_len * min(durations)
    fits = _sums(int(x_len.max()), int(target_len.max()), durations)
    return ~fits.to(x_len.device)[target_len, x_len]


def _sums(frames: int, tokens: int, durations: tuple[int, ...]) -> Tensor:
    """Whether 0..tokens durations and one or more of blanks can add up to 0..frames, (tokens + 1, frames + 1)."""
    blanks: list[bool] = []
    for t in range(frames + 1):
        blanks.append(any(t == d or (t > d and blanks[t - d]) for d in durations if d))
    fits = torch.zeros(tokens + 1, frames + 1, dtype=torch.bool)
    fits[0] = torch.tensor(blanks)
    for u in range(tokens):
        for duration in durations:
            fits[u + 1, duration:] |= fits[u, : max(0, frames + 1 - duration)]
    return fits
