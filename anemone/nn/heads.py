"""Heads: from encoder states to log-probabilities of labels at each frame, or to scores of classes."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from anemone.nn.encoded import keep_mask
from anemone.types import Acoustic, Frames, Logits, LogProbs

Pooling = Literal["average", "max", "attentive", "average_padded", "max_padded"]


class LabelLogProbs(NamedTuple):
    """Log-probabilities of ``num_labels`` labels at each frame, valid frames, and log-probabilities of inner layers."""

    x: LogProbs[Tensor, "B T V={self.num_labels}"]
    x_len: Frames[Tensor, "B"]
    inner: LogProbs[Tensor, "C B T V={self.num_labels}"] | None = None


class CTCHead(nn.Module):
    """Log-probabilities of a vocabulary and, as the last label, the blank (arXiv:1211.3711, section 2).

    Example:
        >>> head = CTCHead(d_model=8, vocab_size=28)
        >>> scores = head(torch.zeros(1, 5, 8), torch.tensor([5]))
        >>> scores.x.shape, head.blank
        (torch.Size([1, 5, 29]), 28)

    Args:
        d_model: width of the encoder.
        vocab_size: number of text tokens, without the blank.
    """

    def __init__(self, d_model: int, vocab_size: int) -> None:
        super().__init__()
        self.d_model, self.vocab_size = d_model, vocab_size
        self.blank = vocab_size
        self.num_labels = vocab_size + 1
        self.linear = nn.Linear(d_model, self.num_labels)
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(
        self,
        x: Acoustic[Tensor, "B T D={self.d_model}"],
        x_len: Frames[Tensor, "B"],
        inner: Acoustic[Tensor, "C B T D={self.d_model}"] | None = None,
    ) -> LabelLogProbs:
        """Returns ``log_softmax(x W + b)`` as float32.

        Under autocast the product is computed in the lower precision, the softmax of it in float32.

        Args:
            x: encoder states.
            x_len: valid frames.
            inner: states of inner layers, where the encoder gives some (arXiv:2102.03216).
        """
        of_inner = None if inner is None else self.linear(inner).float().log_softmax(-1)
        return LabelLogProbs(self.linear(x).float().log_softmax(-1), x_len, of_inner)

    def label_scores(self, output: LabelLogProbs) -> LabelLogProbs:
        """Returns the part of an output that CTC reads: all of it."""
        return output


def _average(x: Tensor, x_len: Tensor) -> Tensor:
    keep = keep_mask(x_len, x.shape[1])
    return (x * keep).sum(1) / x_len.clamp(min=1).unsqueeze(1)


def _max(x: Tensor, x_len: Tensor) -> Tensor:
    return x.masked_fill(~keep_mask(x_len, x.shape[1]), -torch.inf).amax(1)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "average": _average,
    "max": _max,
    "average_padded": lambda x, x_len: x.mean(1),
    "max_padded": lambda x, x_len: x.amax(1),
}


class ClassificationHead(nn.Module):
    """Scores of classes for a whole recording, from states pooled over time.

    Args:
        d_model: width of the encoder.
        num_classes: number of classes.
        pooling: "average" and "max" run over the valid frames; "attentive" is an average under learned weights
            (arXiv:1803.10963, equations 2 to 5); "average_padded" and "max_padded" run over padded frames too, as
            models from `.nemo` archives were trained: their scores depend on the padding.
    """

    def __init__(self, d_model: int, num_classes: int, *, pooling: Pooling = "average") -> None:
        super().__init__()
        assert pooling in get_args(Pooling), pooling
        self.d_model, self.num_classes, self.pooling = d_model, num_classes, pooling
        self.linear = nn.Linear(d_model, num_classes)
        nn.init.xavier_uniform_(self.linear.weight)
        if pooling == "attentive":
            self.attention = nn.Sequential(nn.Linear(d_model, d_model), nn.Tanh(), nn.Linear(d_model, 1))

    def forward(
        self, x: Acoustic[Tensor, "B T D={self.d_model}"], x_len: Frames[Tensor, "B"]
    ) -> Logits[Tensor, "B V={self.num_classes}"]:
        """Returns unnormalised scores as float32.

        Under autocast states are pooled in float32, and the product after it is computed in the lower precision.

        Args:
            x: encoder states.
            x_len: valid frames.
        """
        if self.pooling == "attentive":
            score = self.attention(x).float()  # (B, T, 1)
            weight = score.masked_fill(~keep_mask(x_len, x.shape[1]), -torch.inf).softmax(1)
            pooled = (x.float() * weight).sum(1)
        else:
            pooled = POOLINGS[self.pooling](x.float(), x_len)
        out: Tensor = self.linear(pooled)
        return out.float()
