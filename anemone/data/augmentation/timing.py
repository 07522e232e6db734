"""Steps that change time and pitch: speed and shift."""

from dataclasses import dataclass

import numpy as np

from anemone.config import must
from anemone.data.audio import Signal, resample
from anemone.data.augmentation.step import Augmented, Clip, StepConfig, ordered


@dataclass(frozen=True, kw_only=True)
class SpeedConfig(StepConfig):
    """Slower or faster, with the pitch (Ko et al., "Audio augmentation for speech recognition", Interspeech 2015)."""

    factors: tuple[float, ...] = (0.9, 1.0, 1.1)
    """Factors of the length, one of which is drawn: 1.1 is longer, slower and lower."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(len(self.factors) > 0, "factors", "one factor or more", value=self.factors)
        must(all(0.1 <= factor <= 10 for factor in self.factors), "factors", "between 0.1 and 10", value=self.factors)

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns `speed` by a factor drawn from the list."""
        factor = self.factors[int(rng.integers(len(self.factors)))]
        return Augmented(speed(clip.audio, clip.rate, factor), {"factor": factor})


@dataclass(frozen=True, kw_only=True)
class ShiftConfig(StepConfig):
    """Earlier or later in time; the length stays."""

    min_ms: float = -5.0
    """Least shift in milliseconds; negative is later."""

    max_ms: float = 5.0
    """Greatest shift in milliseconds; positive is earlier."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(self, "min_ms", "max_ms")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns `shift` by a time drawn uniformly."""
        ms = rng.uniform(self.min_ms, self.max_ms)
        return Augmented(shift(clip.audio, int(ms * clip.rate / 1000)), {"ms": ms})


def speed(audio: Signal, rate: int, factor: float) -> Signal:
    """Returns samples (S * factor,): audio resampled from ``rate`` to ``rate * factor`` and played at ``rate``."""
    return resample(audio, rate, int(rate * factor))


def shift(audio: Signal, samples: int) -> Signal:
    """Returns audio ``samples`` earlier (later if negative), zeros in the gap; unchanged if nothing would be left."""
    if not 0 < abs(samples) < len(audio):
        return audio
    moved = np.zeros_like(audio)
    if samples > 0:
        moved[:-samples] = audio[samples:]
    else:
        moved[-samples:] = audio[:samples]
    return moved
