"""Transducers: a network that predicts from the text so far joins an encoder of speech (arXiv:1211.3711).

    states of the encoder (B, T, D) -> acoustic -> (B, T, J) -+
                                                              +-> joint -> scores of (B, T, U + 1, V')
    tokens (B, U) -> predictor -> textual -> (B, U + 1, J) ---+

The predictor is an LSTM, or sees the last few tokens alone (arXiv:2109.07513). The V' scores are of tokens, of big
blanks (arXiv:2211.03541; the last of them first), of the blank, and of durations (arXiv:2304.06795). The joint is not
run in ``forward``: losses and decodings run it where they need it, so all scores never exist at once.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from anemone.config import must, of_kind
from anemone.models.speech.predictors import PREDICTORS
from anemone.nn.activations import ACTIVATIONS
from anemone.nn.dropout import dropout
from anemone.nn.heads import CTCHead, LabelLogProbs
from anemone.types import Acoustic, Frames, Hidden, Labels, Logits, LogProbs, Textual, Tokens


@dataclass(frozen=True, kw_only=True)
class TransducerConfig:
    """A transducer; with durations a TDT, with big blanks a multi-blank transducer."""

    decodings: ClassVar[tuple[str, ...]] = ("transducer_greedy",)
    """Kinds of decoding that fit the head, the usual one first."""

    predictor: Any = of_kind(PREDICTORS, default="lstm")
    """What predicts from the text so far."""

    d_joint: int = 640
    """Width in which encoder and predictor are added."""

    activation: Literal["relu", "sigmoid", "tanh"] = "relu"
    """The non-linearity after the sum."""

    dropout: float = 0.2
    """Share of activations dropped after it."""

    durations: tuple[int, ...] = ()
    """Frames that a token or blank may last, for TDT."""

    big_blanks: tuple[int, ...] = ()
    """Frames that each further blank skips, for multi-blank transducers."""

    p_mask: float = 0.0
    """Probability that, in training, the predictor is not heard at a place (arXiv:2410.02597)."""

    def __post_init__(self) -> None:
        must(self.d_joint > 0, "d_joint", "1 or more", value=self.d_joint)
        must(0 <= self.dropout < 1, "dropout", "at least 0 and below 1", value=self.dropout)
        must(0 <= self.p_mask < 1, "p_mask", "at least 0 and below 1", value=self.p_mask)
        distinct = len(set(self.durations)) == len(self.durations) and min(self.durations, default=0) >= 0
        must(distinct, "durations", "different numbers of frames, 0 or more", value=self.durations)
        must(max(self.durations, default=1) > 0, "durations", "such that time can pass", value=self.durations)
        skips = len(set(self.big_blanks)) == len(self.big_blanks) and min(self.big_blanks, default=2) > 1
        must(skips, "big_blanks", "different numbers of frames, 2 or more", value=self.big_blanks)
        must(not (self.durations and self.big_blanks), "big_blanks", "empty with durations", value=self.big_blanks)

    @property
    def losses(self) -> tuple[str, ...]:
        """Kinds of losses that fit the head, the usual one first."""
        return ("tdt",) if self.durations else ("multi_blank",) if self.big_blanks else ("rnnt",)

    def build(self, d_model: int, vocab_size: int) -> "TransducerHead":
        """Returns the head over an encoder of width ``d_model``."""
        return TransducerHead(d_model, vocab_size, self)


@dataclass(frozen=True, kw_only=True)
class HybridConfig(TransducerConfig):
    """A transducer and CTC on one encoder: trained together, decoded by either."""

    decodings: ClassVar[tuple[str, ...]] = ("transducer_greedy", "ctc_greedy")
    """Kinds of decoding that fit the head, the usual one first."""

    @property
    def losses(self) -> tuple[str, ...]:
        """Kinds of losses that fit the head."""
        return ("hybrid",)

    def build(self, d_model: int, vocab_size: int) -> "HybridHead":
        """Returns the head over an encoder of width ``d_model``."""
        return HybridHead(d_model, vocab_size, self)


class Joint(nn.Module):
    """Scores of what comes next, from the sum of what encoder and predictor say.

    Args:
        d_joint: width of both.
        num_outputs: tokens, blanks, durations.
        activation: the non-linearity.
        dropout: share of activations dropped after it.
    """

    def __init__(self, d_joint: int, num_outputs: int, *, activation: str, dropout: float) -> None:
        super().__init__()
        self.d_joint, self.num_outputs, self.dropout = d_joint, num_outputs, dropout
        self.activation = ACTIVATIONS[activation]
        self.linear = nn.Linear(d_joint, num_outputs)

    def forward(self, x: Hidden[Tensor, "T U D={self.d_joint}"]) -> Logits[Tensor, "T U V={self.num_outputs}"]:
        """Returns unnormalised scores.

        Args:
            x: a sum at each node; any axes may stand for frames and labels.
        """
        out: Tensor = self.linear(dropout(self.activation(x), self.dropout, self.training))
        return out


class TransducerStates(NamedTuple):
    """What encoder and predictor say, in the width of the joint, and how many frames are valid."""

    x: Hidden[Tensor, "B T D'={self.d_joint}"]
    x_len: Frames[Tensor, "B"]
    predicted: Textual[Tensor, "B U' D'={self.d_joint}"]


class HybridStates(NamedTuple):
    """`TransducerStates`, and log-probabilities of tokens and blank at each frame, of inner layers too."""

    x: Hidden[Tensor, "B T D'={self.d_joint}"]
    x_len: Frames[Tensor, "B"]
    predicted: Textual[Tensor, "B U' D'={self.d_joint}"]
    log_probs: LogProbs[Tensor, "B T V={self.ctc.num_labels}"]
    inner: LogProbs[Tensor, "C B T V={self.ctc.num_labels}"] | None = None


class TransducerHead(nn.Module):
    """Predictor and joint.

    Example:
        >>> head = TransducerConfig(d_joint=8).build(d_model=16, vocab_size=28)
        >>> states = torch.zeros(1, 5, 16), torch.tensor([5])
        >>> x, x_len, predicted = head(*states, torch.tensor([[4, 2]]), torch.tensor([2]))
        >>> head.joint(x[0, :, None] + predicted[0, None]).shape
        torch.Size([5, 3, 29])

    Args:
        d_model: width of the encoder.
        vocab_size: number of text tokens, without blanks.
        config: everything else.
    """

    def __init__(self, d_model: int, vocab_size: int, config: TransducerConfig) -> None:
        super().__init__()
        self.d_model, self.vocab_size, self.d_joint = d_model, vocab_size, config.d_joint
        self.durations, self.big_blanks, self.p_mask = config.durations, config.big_blanks, config.p_mask
        self.predictor: Any = config.predictor.build(vocab_size)
        self.acoustic = nn.Linear(d_model, config.d_joint)
        self.textual = nn.Linear(self.predictor.d_model, config.d_joint)
        num_outputs = vocab_size + len(config.big_blanks) + 1 + len(config.durations)
        self.joint = Joint(config.d_joint, num_outputs, activation=config.activation, dropout=config.dropout)

    def forward(
        self,
        x: Acoustic[Tensor, "B T D={self.d_model}"],
        x_len: Frames[Tensor, "B"],
        targets: Tokens[Tensor, "B U"],
        target_len: Labels[Tensor, "B"],
    ) -> TransducerStates:
        """Returns what the joint takes, from encoder and predictor.

        Args:
            x: encoder states.
            x_len: valid frames.
            targets: tokens of the text; none, (B, 0), to decode.
            target_len: not asked for, as the predictor sees only tokens before.
        """
        return TransducerStates(self.acoustic(x), x_len, self._predicted(targets))

    def _predicted(self, targets: Tensor) -> Tensor:
        out: Tensor = self.textual(self.predictor(targets))
        if self.training and self.p_mask:
            out = out * (torch.rand(*out.shape[:2], 1, device=out.device) > self.p_mask)
        return out


class HybridHead(TransducerHead):
    """A transducer's predictor and joint, and a CTC head.

    Args:
        d_model: width of the encoder.
        vocab_size: number of text tokens, without blanks.
        config: that of the transducer.
    """

    def __init__(self, d_model: int, vocab_size: int, config: HybridConfig) -> None:
        super().__init__(d_model, vocab_size, config)
        self.ctc = CTCHead(d_model, vocab_size)

    def forward(  # type: ignore[override]  # it gives more
        self,
        x: Acoustic[Tensor, "B T D={self.d_model}"],
        x_len: Frames[Tensor, "B"],
        targets: Tokens[Tensor, "B U"],
        target_len: Labels[Tensor, "B"],
        inner: Acoustic[Tensor, "C B T D={self.d_model}"] | None = None,
    ) -> HybridStates:
        """Returns what the joint takes, and log-probabilities of labels.

        Args:
            x: encoder states.
            x_len: valid frames.
            targets: tokens of the text; none, (B, 0), to decode.
            target_len: not asked for.
            inner: states of inner layers, where the encoder gives some.
        """
        labels = self.ctc(x, x_len, inner)
        return HybridStates(self.acoustic(x), x_len, self._predicted(targets), labels.x, labels.inner)

    def label_scores(self, output: HybridStates) -> LabelLogProbs:
        """Returns the part of an output that CTC reads."""
        return LabelLogProbs(output.log_probs, output.x_len, output.inner)
