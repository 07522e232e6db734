"""Waveform augmentation: what the workers do to a recording before a training step sees it.

Each kind is a pure function of (samples, what was drawn); the draws come from a generator that is seeded by (seed,
epoch, row), so an utterance is augmented alike on any number of workers, and differently in each epoch.
"""

from dataclasses import dataclass, fields

import numpy as np

from anemone.config import must
from anemone.data.audio import Signal, resample


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """What every kind has."""

    p: float = 0.5
    """Probability that an utterance is changed."""

    def __post_init__(self) -> None:
        must(0 <= self.p <= 1, "p", "between 0 and 1", value=self.p)

    def draw(self, audio: Signal, rate: int, rng: np.random.Generator) -> Signal:
        """Returns the samples (S,) after a random change."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SpeedConfig(AugmentationConfig):
    """Slower or faster, with the pitch (Ko et al., "Audio augmentation for speech recognition", Interspeech 2015)."""

    factors: tuple[float, ...] = (0.9, 1.0, 1.1)
    """Factors of the length, one of which is drawn: 1.1 is longer, slower and lower."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(len(self.factors) > 0, "factors", "one factor or more", value=self.factors)
        must(all(0.1 <= factor <= 10 for factor in self.factors), "factors", "between 0.1 and 10", value=self.factors)

    def draw(self, audio: Signal, rate: int, rng: np.random.Generator) -> Signal:
        """Returns `speed` by a factor drawn from the list."""
        return speed(audio, rate, self.factors[int(rng.integers(len(self.factors)))])


@dataclass(frozen=True, kw_only=True)
class ShiftConfig(AugmentationConfig):
    """Earlier or later in time; the length stays."""

    min_ms: float = -5.0
    """Least shift in milliseconds; negative is later."""

    max_ms: float = 5.0
    """Greatest shift in milliseconds; positive is earlier."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(self.min_ms <= self.max_ms, "min_ms", f"at most max_ms ({self.max_ms:g})", value=self.min_ms)

    def draw(self, audio: Signal, rate: int, rng: np.random.Generator) -> Signal:
        """Returns `shift` by a time drawn uniformly."""
        return shift(audio, int(rng.uniform(self.min_ms, self.max_ms) * rate / 1000))


@dataclass(frozen=True, kw_only=True)
class GainConfig(AugmentationConfig):
    """Softer or louder."""

    min_db: float = -10.0
    """Least gain in decibels."""

    max_db: float = 10.0
    """Greatest gain in decibels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(self.min_db <= self.max_db, "min_db", f"at most max_db ({self.max_db:g})", value=self.min_db)

    def draw(self, audio: Signal, rate: int, rng: np.random.Generator) -> Signal:
        """Returns `gain` by decibels drawn uniformly."""
        return gain(audio, rng.uniform(self.min_db, self.max_db))


@dataclass(frozen=True, kw_only=True)
class WhiteNoiseConfig(AugmentationConfig):
    """Gaussian noise on top."""

    min_db: float = -90.0
    """Least level of the noise in decibels of full scale."""

    max_db: float = -46.0
    """Greatest level of the noise in decibels of full scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(self.min_db <= self.max_db, "min_db", f"at most max_db ({self.max_db:g})", value=self.min_db)

    def draw(self, audio: Signal, rate: int, rng: np.random.Generator) -> Signal:
        """Returns the samples plus noise of a level drawn uniformly in decibels."""
        return white_noise(audio, rng.uniform(self.min_db, self.max_db), rng)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Which augmentations training has, in the order they are applied; those left out are not."""

    speed: SpeedConfig | None = None
    """Slower or faster."""

    shift: ShiftConfig | None = None
    """Earlier or later."""

    gain: GainConfig | None = None
    """Softer or louder."""

    white_noise: WhiteNoiseConfig | None = None
    """Noise on top."""

    @property
    def chosen(self) -> tuple[AugmentationConfig, ...]:
        """The augmentations that are set."""
        return tuple(kind for field in fields(self) if (kind := getattr(self, field.name)) is not None)


def augment(
    audio: Signal, rate: int, kinds: tuple[AugmentationConfig, ...], *, seed: int, epoch: int, row: int
) -> Signal:
    """Returns samples (S,) after each kind in turn, each with its probability.

    Args:
        audio: (S,) samples; never written to.
        rate: samples per second.
        kinds: what to apply.
        seed: of the run.
        epoch: from 0.
        row: number of the utterance in the index.
    """
    rng = np.random.default_rng([seed, epoch, row])
    for kind in kinds:
        if rng.random() < kind.p:
            audio = kind.draw(audio, rate, rng)
    return audio


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


def gain(audio: Signal, db: float) -> Signal:
    """Returns ``audio * 10 ** (db / 20)``."""
    return audio * np.float32(10 ** (db / 20))


def white_noise(audio: Signal, db: float, rng: np.random.Generator) -> Signal:
    """Returns audio plus Gaussian noise of standard deviation ``10 ** (db / 20)``."""
    return audio + rng.standard_normal(len(audio), np.float32) * np.float32(10 ** (db / 20))
