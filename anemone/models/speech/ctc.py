"""The CTC head: log-probabilities of tokens and blank at each frame (Graves et al., ICML 2006)."""

from dataclasses import dataclass
from typing import ClassVar

from anemone.nn.heads import CTCHead


@dataclass(frozen=True, kw_only=True)
class CTCHeadConfig:
    """One linear map and a softmax over each frame."""

    losses: ClassVar[tuple[str, ...]] = ("ctc",)
    """Kinds of losses that fit the head, the usual one first."""

    decodings: ClassVar[tuple[str, ...]] = ("ctc_greedy",)
    """Kinds of decoding that fit the head, the usual one first."""

    def build(self, d_model: int, vocab_size: int) -> CTCHead:
        """Returns the head over an encoder of width ``d_model``."""
        return CTCHead(d_model, vocab_size)
