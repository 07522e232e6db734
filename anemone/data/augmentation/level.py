"""Steps that change how loud an utterance is."""

from dataclasses import dataclass

import numpy as np

from anemone.data.audio import Signal
from anemone.data.augmentation.step import Augmented, Clip, StepConfig, ordered


@dataclass(frozen=True, kw_only=True)
class GainConfig(StepConfig):
    """Softer or louder."""

    min_db: float = -10.0
    """Least gain in decibels."""

    max_db: float = 10.0
    """Greatest gain in decibels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(self, "min_db", "max_db")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns `gain` by decibels drawn uniformly."""
        db = rng.uniform(self.min_db, self.max_db)
        return Augmented(gain(clip.audio, db), {"db": db})


def gain(audio: Signal, db: float) -> Signal:
    """Returns ``audio * 10 ** (db / 20)``."""
    return audio * np.float32(10 ** (db / 20))
