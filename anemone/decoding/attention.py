"""Greedy decoding of an attention head: the best token at each step, given those before it."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from anemone.config import must
from anemone.decoding import Decoder, Hypothesis

if TYPE_CHECKING:
    from anemone.models.speech.attention_decoder import AttentionHead, AttentionStates


@dataclass(frozen=True, kw_only=True)
class AttentionGreedyConfig:
    """The best token at each step, all utterances of a batch at a time, with keys and values kept."""

    max_delta: int | None = 50
    """Tokens, prompt included, that a text may have beyond the number of the encoder's frames; null for no such limit.
    It never has more than the head's ``max_len``."""

    def __post_init__(self) -> None:
        rule = "0 or more, or null"
        must(self.max_delta is None or self.max_delta >= 0, "max_delta", rule, value=self.max_delta)

    def build(self, head: "AttentionHead") -> Decoder:
        """Returns `attention_greedy` of a head."""
        return partial(attention_greedy, head, max_delta=self.max_delta)


@torch.no_grad()
def attention_greedy(
    head: "AttentionHead", output: "AttentionStates", *, max_delta: int | None = None
) -> list[Hypothesis]:
    """Writes on from each prompt, until the end or the limit of each utterance.

    The limit is each utterance's own, whatever it is batched with.

    Args:
        head: what writes.
        output: what it gave for a batch, whose targets begin with prompts of a token or more.
        max_delta: see `AttentionGreedyConfig`.

    Returns:
        One hypothesis per utterance, without prompt and end; frames are not told.
    """
    memory, memory_len, _, prompts, prompt_len = output
    limit = torch.full_like(memory_len, head.max_len)
    limit = limit if max_delta is None else limit.clamp(max=memory_len + max_delta)
    at = int(prompt_len.min())
    assert at > 0, "a prompt must have a token or more"
    text = prompts[:, :at]
    log_probs, state = head.step(head.start(memory, memory_len), text)
    score, done = log_probs.new_zeros(len(text)), limit <= prompt_len
    while not bool(done.all()):
        best, token = log_probs[:, -1, : head.vocab_size].max(-1)
        given = at < prompt_len  # of a prompt that is longer than others
        token = torch.where(given, prompts[:, min(at, prompts.shape[1] - 1)], token)
        token = token.masked_fill(done, head.end)
        score = score + best.masked_fill(done | given, 0.0)
        text, at = torch.cat([text, token[:, None]], 1), at + 1
        done = done | (~given & ((token == head.end) | (at >= limit)))
        if not bool(done.all()):
            log_probs, state = head.step(state, token[:, None])
    return [
        Hypothesis(_until(head.end, line[length:end]), [], value)
        for line, length, end, value in zip(
            text.tolist(), prompt_len.tolist(), limit.tolist(), score.tolist(), strict=True
        )
    ]


def _until(end: int, tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens
