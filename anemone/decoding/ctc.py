"""Greedy CTC decoding: the best token of each frame, repeats joined, blanks dropped."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anemone.decoding import Decoder, Hypothesis


@dataclass(frozen=True, kw_only=True)
class CTCGreedyConfig:
    """The single most probable alignment, without a language model."""

    def build(self, head: Any) -> Decoder:
        """Returns `ctc_greedy` of what the head gives.

        Args:
            head: has ``label_scores``, which tells what of its output CTC reads.
        """

        def decoder(output: Any) -> list[Hypothesis]:
            scores = head.label_scores(output)
            return ctc_greedy(scores.x, scores.x_len)

        return decoder


def ctc_greedy(log_probs: Tensor, log_probs_len: Tensor) -> list[Hypothesis]:
    """Decodes each utterance along its best alignment.

    Example:
        >>> best = torch.tensor([[0, 0, 2, 0, 1, 1]])  # with 2 as the blank
        >>> log_probs = torch.nn.functional.one_hot(best, 3).float().log_softmax(-1)
        >>> ctc_greedy(log_probs, torch.tensor([6]))[0].tokens
        [0, 0, 1]

    Args:
        log_probs: (B, T, V); index V - 1 is the blank.
        log_probs_len: (B,) frames.
    """
    scores, path = log_probs.detach().float().max(-1)  # (B, T, V) -> (B, T)
    inside = torch.arange(path.shape[1], device=path.device) < log_probs_len[:, None]
    starts = torch.ones_like(inside)
    starts[:, 1:] = path[:, 1:] != path[:, :-1]
    kept = (inside & starts & (path != log_probs.shape[-1] - 1)).cpu()
    counts = kept.sum(1).tolist()
    tokens, frames = torch.split(path.cpu()[kept], counts), torch.split(kept.nonzero()[:, 1], counts)
    totals = (scores * inside).sum(1).tolist()
    return [Hypothesis(t.tolist(), f.tolist(), s) for t, f, s in zip(tokens, frames, totals, strict=True)]
