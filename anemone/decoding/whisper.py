"""Greedy decoding as Whisper's checkpoints ask for it: tokens that are never written, and languages that are heard.

Where a prompt repeats its first token in place of a language, the likeliest language is put there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anemone.config import must
from anemone.decoding import Decoder, Hypothesis
from anemone.decoding.attention import attention_greedy

if TYPE_CHECKING:
    from anemone.models.speech.attention_decoder import AttentionHead, AttentionStates, State


@dataclass(frozen=True, kw_only=True)
class WhisperGreedyConfig:
    """The best token at each step, of those that may be written."""

    suppress: tuple[int, ...] = ()
    """Tokens that are never written, such as signs of what is no speech."""

    suppress_first: tuple[int, ...] = ()
    """Tokens that are not written right after the prompt, such as the end."""

    languages: tuple[int, ...] = ()
    """Tokens of languages, of which the likeliest is heard where none was said."""

    def __post_init__(self) -> None:
        for name in ("suppress", "suppress_first", "languages"):
            tokens = getattr(self, name)
            must(all(token >= 0 for token in tokens), name, "tokens, 0 or more each", value=tokens)

    def build(self, head: "AttentionHead") -> Decoder:
        """Returns the decoder of a head.

        Raises:
            ConfigError: there is no such token.
        """
        for name in ("suppress", "suppress_first", "languages"):
            most = max(getattr(self, name), default=0)
            must(most < head.vocab_size, name, f"tokens below {head.vocab_size}", value=most)
        choosy = Choosy(head, self)

        def decoder(output: "AttentionStates") -> list[Hypothesis]:
            return attention_greedy(choosy, told(head, output, self.languages))  # type: ignore[arg-type]  # as the head

        return decoder


class Choosy:
    """A head that gives no probability to tokens that may not be written.

    Args:
        head: what it asks.
        config: which tokens these are.
    """

    def __init__(self, head: "AttentionHead", config: WhisperGreedyConfig) -> None:
        self.head, self.config = head, config
        self.end, self.max_len, self.vocab_size = head.end, head.max_len, head.vocab_size
        self.start = head.start

    def step(self, state: "State", tokens: Tensor) -> tuple[Tensor, "State"]:
        """Reads tokens as the head does; arguments and results are those of its `step`."""
        first = not state.length
        log_probs, state = self.head.step(state, tokens)
        never = [*self.config.suppress, *(self.config.suppress_first if first else ())]
        log_probs[:, -1, never] = -torch.inf
        return log_probs, state


@torch.no_grad()
def told(head: "AttentionHead", output: "AttentionStates", languages: tuple[int, ...]) -> "AttentionStates":
    """Puts the likeliest language into the prompts that do not say any.

    Args:
        head: what hears them.
        output: what it gave for a batch; the second token of a prompt is its language, or the first once more.
        languages: their tokens.
    """
    prompts = output.targets
    if not languages or prompts.shape[1] < 2 or not bool((prompts[:, 1] == prompts[:, 0]).any()):
        return output
    log_probs, _ = head.step(head.start(output.x, output.x_len), prompts[:, :1])
    choices = torch.tensor(languages, device=prompts.device)
    heard = choices[log_probs[:, 0, choices].argmax(1)]
    prompts = prompts.clone()
    prompts[:, 1] = torch.where(prompts[:, 1] == prompts[:, 0], heard, prompts[:, 1])
    return output._replace(targets=prompts)
