"""From what the head of a recogniser gives to tokens, and text from a language model.

The config of a recogniser's decoding makes a `Decoder` by ``build(head)``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

DECODERS = {
    "attention_greedy": "anemone.decoding.attention:AttentionGreedyConfig",
    "ctc_greedy": "anemone.decoding.ctc:CTCGreedyConfig",
    "transducer_greedy": "anemone.decoding.transducer:TransducerGreedyConfig",
    "whisper_greedy": "anemone.decoding.whisper:WhisperGreedyConfig",
}


class Hypothesis(NamedTuple):
    """What was decoded from one utterance."""

    tokens: list[int]
    """Token indices, without blanks."""

    frames: list[int]
    """The frame of the encoder at which each token begins."""

    score: float
    """Log-probability of the path that was followed; of the best single alignment, not of the text."""


Decoder = Callable[[Any], list[Hypothesis]]
"""From what the head of a recogniser gives for a batch to one hypothesis per item."""
