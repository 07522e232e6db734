"""Greedy decoding of transducers: RNN-T, TDT and multi-blank, a whole batch at a time.

Each utterance is at a frame of its own. While blanks are best the predictor says the same, so the scores of the next
few frames are computed at once, and each utterance goes from blank to blank as far as it can; where it finds a token,
its predictor reads it. All utterances do so in one step, so the number of steps is about that of tokens of the longest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anemone.config import must
from anemone.decoding import Decoder, Hypothesis

AHEAD = 4
"""Frames whose scores are computed at once."""


class GreedyState(NamedTuple):
    """Where decoding stopped: the frames that follow go on from it."""

    memory: tuple[Tensor, ...]
    """What the predictor remembers of the text so far; the batch is the first axis."""

    predicted: Tensor
    """(B, J), what the predictor says after it."""

    frame: Tensor
    """(B,) int64, the frame that is next, counted from the first that follows: above 0 where some are skipped."""

    repeats: Tensor
    """(B,) int64, tokens so far at that frame."""


@dataclass(frozen=True, kw_only=True)
class TransducerGreedyConfig:
    """The most probable token or blank at each step, without a language model."""

    max_symbols: int = 10
    """Tokens at one frame; after so many, time passes."""

    def __post_init__(self) -> None:
        must(1 <= self.max_symbols <= 1000, "max_symbols", "in 1..1000", value=self.max_symbols)

    def build(self, head: Any) -> Decoder:
        """Returns `transducer_greedy` of what the head gives.

        Args:
            head: a transducer.
        """

        def decoder(output: Any) -> list[Hypothesis]:
            return transducer_greedy(head, output.x, output.x_len, max_symbols=self.max_symbols)[0]

        return decoder


@torch.no_grad()
def transducer_greedy(
    head: Any, x: Tensor, x_len: Tensor, *, max_symbols: int = 10, state: GreedyState | None = None
) -> tuple[list[Hypothesis], GreedyState]:
    """Decodes each utterance along the path that is best at each step.

    A path is over at the last frame. Its score is its log-probability, durations included.

    Args:
        head: a transducer in evaluation mode: ``predictor``, ``textual``, ``joint``, ``blank``, ``durations``,
            ``big_blanks``.
        x: (B, T, J), what the encoder says of each frame.
        x_len: (B,) frames.
        max_symbols: tokens at one frame.
        state: of the frames before; None for the beginning.

    Returns:
        what was found, with frames counted from the first of ``x``, and the state for the frames that follow.
    """
    state = state or begin(head, len(x))
    memory, predicted, frame, repeats = state
    read, num_tokens = _reader(head, x.device), head.vocab_size
    score = torch.zeros(len(x), device=x.device)
    found: list[tuple[Tensor, Tensor, Tensor]] = []  # whether a token, which, at what frame; (B,) each
    while bool((frame < x_len).any()):
        near = frame[:, None] + torch.arange(min(AHEAD, x.shape[1]), device=x.device)  # (B, A)
        scores = head.joint(_at(x, near) + predicted[:, None])
        labels, skips, gains = read(scores.float())
        blank = labels >= num_tokens
        place, gain = _walk(torch.where(blank, skips, 0), gains, x_len - frame)
        score += gain
        reached = frame + place
        token = (place < near.shape[1]) & (reached < x_len)
        place = place.clamp(max=near.shape[1] - 1)[:, None]
        label = labels.gather(1, place)[:, 0].where(token, head.predictor.blank)
        score += gains.gather(1, place)[:, 0] * token
        found.append((token, label, reached))
        skip = skips.gather(1, place)[:, 0] * token
        repeats = torch.where(reached == frame, repeats, 0) + token
        full = token & (skip == 0) & (repeats >= max_symbols)
        skip = torch.where(full, 1, skip)
        repeats = torch.where(skip > 0, 0, repeats)
        frame = reached + skip
        if bool(token.any()):
            said, after = head.predictor.step(label, memory)
            predicted = torch.where(token[:, None], head.textual(said), predicted)
            memory = tuple(_where(token, new, old) for new, old in zip(after, memory, strict=True))
    return _collect(found, score), GreedyState(memory, predicted, (frame - x_len).clamp(min=0), repeats)


@torch.no_grad()
def begin(head: Any, num_items: int) -> GreedyState:
    """Returns the state before the first frame: the predictor has read the blank that stands for the beginning.

    Args:
        head: a transducer in evaluation mode.
        num_items: B.
    """
    memory = head.predictor.start(num_items)
    device = next(head.parameters()).device
    said, memory = head.predictor.step(torch.full((num_items,), head.predictor.blank, device=device), memory)
    zeros = torch.zeros(num_items, dtype=torch.long, device=device)
    return GreedyState(memory, head.textual(said), zeros, zeros)


def _reader(head: Any, device: torch.device) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """What reads scores (..., V'): the best label, the frames to the next step, and the log-probability of both."""
    durations = torch.tensor(head.durations, device=device)
    blanks = torch.tensor([*head.big_blanks[::-1], 1], device=device)
    num_labels = head.vocab_size + len(blanks)

    def read(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        words = scores[..., :num_labels]
        best, labels = words.max(-1)
        gains = best - words.logsumexp(-1)
        blank = (labels - head.vocab_size).clamp(min=0)
        if not len(durations):
            return labels, torch.where(labels < head.vocab_size, 0, blanks[blank]), gains
        best, chosen = (lasts := scores[..., num_labels:]).max(-1)
        skips = durations[chosen]
        skips = torch.where(labels < head.vocab_size, skips, skips.clamp(min=1))
        return labels, skips, gains + best - lasts.logsumexp(-1)

    return read


def _at(x: Tensor, frames: Tensor) -> Tensor:
    """Picks frames (B, A) of (B, T, J); beyond the last stands the last."""
    frames = frames.clamp(max=x.shape[1] - 1)
    return x.gather(1, frames[:, :, None].expand(-1, -1, x.shape[2]))


def _walk(skips: Tensor, gains: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Goes from blank to blank, from place 0 on.

    Args:
        skips: (B, A), how far the blank at each place leads; 0 where there is none.
        gains: (B, A), log-probabilities of these steps.
        left: (B,), places that there are.

    Returns:
        (B,), the first place with no blank, or beyond ``left`` or A; and what the steps to it add up to.
    """
    place, total = torch.zeros_like(left), torch.zeros_like(gains[:, 0])
    for _ in range(skips.shape[1]):
        here = place.clamp(max=skips.shape[1] - 1)[:, None]
        inside = (place < skips.shape[1]) & (place < left)
        skip = skips.gather(1, here)[:, 0] * inside
        total = total + gains.gather(1, here)[:, 0] * (skip > 0)
        place = place + skip
    return place, total


def _where(keep: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Takes the new entries of some items of a batch."""
    return torch.where(keep.view(-1, *[1] * (new.ndim - 1)), new, old)


def _collect(found: list[tuple[Tensor, Tensor, Tensor]], score: Tensor) -> list[Hypothesis]:
    """Makes a hypothesis of what was found step by step."""
    if not found:
        return [Hypothesis([], [], total) for total in score.tolist()]
    token, label, frame = (torch.stack(each, 1).cpu() for each in zip(*found, strict=True))  # (B, steps)
    counts = token.sum(1).tolist()
    labels, frames = torch.split(label[token], counts), torch.split(frame[token], counts)
    return [Hypothesis(t.tolist(), f.tolist(), s) for t, f, s in zip(labels, frames, score.tolist(), strict=True)]
