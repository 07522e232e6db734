"""Steps that add something: white and pink noise, recorded noise, other speakers."""

from dataclasses import dataclass

import numpy as np

from anemone.data.audio import Signal
from anemone.data.augmentation.step import Augmented, Clip, StepConfig, ordered


@dataclass(frozen=True, kw_only=True)
class WhiteNoiseConfig(StepConfig):
    """Gaussian noise on top."""

    min_db: float = -90.0
    """Least level of the noise in decibels of full scale."""

    max_db: float = -46.0
    """Greatest level of the noise in decibels of full scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(self, "min_db", "max_db")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples plus noise of a level drawn uniformly in decibels."""
        db = rng.uniform(self.min_db, self.max_db)
        return Augmented(white_noise(clip.audio, db, rng), {"db": db})


def white_noise(audio: Signal, db: float, rng: np.random.Generator) -> Signal:
    """Returns audio plus Gaussian noise of standard deviation ``10 ** (db / 20)``."""
    return audio + rng.standard_normal(len(audio), np.float32) * np.float32(10 ** (db / 20))
