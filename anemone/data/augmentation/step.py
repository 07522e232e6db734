"""What every step of a recipe has: a probability, and a random change of a clip."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from anemone.config import must
from anemone.data.audio import Signal

Drawn = dict[str, Any]
"""What a step drew, by name: numbers and strings, such as ``{"factor": 0.9}``."""


class Clip(NamedTuple):
    """An utterance on its way through a recipe.

    Attributes:
        audio: (S,) samples; never written to.
        rate: samples per second.
        id: of the utterance.
    """

    audio: Signal
    rate: int
    id: str


class Augmented(NamedTuple):
    """Changed samples, and what was drawn.

    Attributes:
        audio: (S,) float32 samples.
        drawn: of one step its parameters; of a recipe those of each step that acted, by its name.
    """

    audio: Signal
    drawn: Drawn


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """A step of a recipe."""

    p: float = 0.5
    """Probability that an utterance is changed."""

    def __post_init__(self) -> None:
        must(0 <= self.p <= 1, "p", "between 0 and 1", value=self.p)

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the step reads, as they are written in the recipe."""
        return ()

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples (S,) after a random change, and what was drawn for it."""
        raise NotImplementedError


def ordered(config: Any, low: str, high: str) -> None:
    """Raises unless setting ``low`` of a config is at most its setting ``high``.

    Raises:
        ConfigError: naming both.
    """
    least, most = getattr(config, low), getattr(config, high)
    must(least <= most, low, f"at most {high} ({most:g})", value=least)
