"""Steps that add something: white and pink noise, recorded noise, other speakers."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anemone.config import must
from anemone.data.audio import Signal
from anemone.data.augmentation.level import rms_db
from anemone.data.augmentation.pool import pool
from anemone.data.augmentation.step import Augmented, Clip, StepConfig, ordered


@dataclass(frozen=True, kw_only=True)
class WhiteNoiseConfig(StepConfig):
    """Gaussian noise on top, as strong at all frequencies."""

    min_db: float = -90.0
    """Least level of the noise in decibels."""

    max_db: float = -46.0
    """Greatest level of the noise in decibels."""

    above: Literal["full_scale", "speech"] = "full_scale"
    """What the level is counted from: full scale, or the level of the utterance (then -10 is an SNR of 10 dB)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(self, "min_db", "max_db")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples plus noise of a level drawn uniformly in decibels."""
        db = rng.uniform(self.min_db, self.max_db)
        return Augmented(white_noise(clip.audio, _level(self.above, db, clip.audio), rng), {"db": db})


@dataclass(frozen=True, kw_only=True)
class PinkNoiseConfig(StepConfig):
    """Gaussian noise on top, as strong in each octave: nearer to what rooms and streets sound like than white noise."""

    min_db: float = -70.0
    """Least level of the noise in decibels."""

    max_db: float = -40.0
    """Greatest level of the noise in decibels."""

    above: Literal["full_scale", "speech"] = "full_scale"
    """What the level is counted from: full scale, or the level of the utterance (then -10 is an SNR of 10 dB)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(self, "min_db", "max_db")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples plus noise of a level drawn uniformly in decibels."""
        db = rng.uniform(self.min_db, self.max_db)
        noise = pink(len(clip.audio), rng)
        return Augmented(clip.audio + noise * np.float32(10 ** (_level(self.above, db, clip.audio) / 20)), {"db": db})


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(StepConfig):
    """Recorded noise on top, at a ratio of signal to noise."""

    manifest: str
    """Recordings of noise: a manifest of JSON lines, or any other source."""

    min_snr_db: float = 0.0
    """Least ratio of the utterance's power to the noise's, in decibels."""

    max_snr_db: float = 20.0
    """Greatest ratio."""

    shorter: Literal["loop", "place"] = "loop"
    """What becomes of noise shorter than the utterance: repeated all through, or put somewhere in it, once."""

    max_gain_db: float = 300.0
    """How much louder the noise may become at most, in decibels, for the ratio to hold."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(self, "min_snr_db", "max_snr_db")

    @property
    def files(self) -> tuple[str, ...]:
        """The manifest."""
        return (self.manifest,)

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples plus a piece of noise drawn at random, at a ratio drawn uniformly in decibels."""
        snr, noises = rng.uniform(self.min_snr_db, self.max_snr_db), pool(self.manifest, clip.rate)
        noise, row, start = noises.draw(len(clip.audio), rng)
        drawn = {"snr_db": snr, "noise": noises.id(row), "start": start}
        level = noise_gain(clip.audio, noise, snr, self.max_gain_db)
        if self.shorter == "loop":
            return Augmented(clip.audio + looped(noise, len(clip.audio)) * level, drawn)
        at = int(rng.integers(len(clip.audio) - len(noise) + 1))
        mixed = clip.audio.copy()
        mixed[at : at + len(noise)] += noise * level
        return Augmented(mixed, {**drawn, "at": at / clip.rate})


@dataclass(frozen=True, kw_only=True)
class BabbleConfig(StepConfig):
    """Other speakers at the same time, at a ratio of the utterance's power to theirs together."""

    manifest: str
    """Utterances of other speakers: a manifest of JSON lines, or any other source; most often the training set itself.
    Where it holds the utterance too, this is not drawn, nor is another of its ``speaker``."""

    min_snr_db: float = 5.0
    """Least ratio in decibels."""

    max_snr_db: float = 20.0
    """Greatest ratio."""

    min_voices: int = 1
    """Least number of other speakers at once."""

    max_voices: int = 3
    """Greatest number of other speakers at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(self, "min_snr_db", "max_snr_db")
        must(self.min_voices >= 1, "min_voices", "1 or more", value=self.min_voices)
        must(self.max_voices <= 100, "max_voices", "at most 100", value=self.max_voices)
        ordered(self, "min_voices", "max_voices")

    @property
    def files(self) -> tuple[str, ...]:
        """The manifest."""
        return (self.manifest,)

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples plus voices drawn at random, all as loud as each other."""
        snr, others = rng.uniform(self.min_snr_db, self.max_snr_db), pool(self.manifest, clip.rate)
        babble, names = np.zeros_like(clip.audio), []
        for _ in range(int(rng.integers(self.min_voices, self.max_voices + 1))):
            voice, row, _ = others.draw(len(clip.audio), rng, without=clip.id)
            at = int(rng.integers(len(clip.audio) - len(voice) + 1))
            babble[at : at + len(voice)] += voice * noise_gain(np.ones(1, np.float32), voice, 0)
            names.append(others.id(row))
        return Augmented(clip.audio + babble * noise_gain(clip.audio, babble, snr), {"snr_db": snr, "voices": names})


def white_noise(audio: Signal, db: float, rng: np.random.Generator) -> Signal:
    """Returns audio plus Gaussian noise of standard deviation ``10 ** (db / 20)``."""
    return audio + rng.standard_normal(len(audio), np.float32) * np.float32(10 ** (db / 20))


def pink(samples: int, rng: np.random.Generator) -> Signal:
    """Returns Gaussian noise (S,) with a mean square of 1 whose power falls by 3 dB an octave."""
    if samples < 2:
        return np.zeros(samples, np.float32)
    size = 2 ** math.ceil(math.log2(samples))
    lines = rng.standard_normal((size // 2 + 1, 2), np.float32).view(np.complex64)[:, 0]
    lines[0] = 0
    lines[1:] /= np.sqrt(np.arange(1, len(lines), dtype=np.float32))
    noise: Signal = np.fft.irfft(lines, size)[:samples].astype(np.float32, copy=False)
    return noise / np.float32(10 ** (rms_db(noise) / 20))


def noise_gain(audio: Signal, noise: Signal, snr_db: float, max_gain_db: float = 300.0) -> np.float32:
    """Returns the factor that brings noise to so many decibels below audio, by mean squares; 0 if either is silent."""
    db = rms_db(audio) - rms_db(noise) - snr_db
    return np.float32(10 ** (min(db, max_gain_db) / 20) if math.isfinite(db) else 0.0)


def looped(noise: Signal, samples: int) -> Signal:
    """Returns noise (S,) repeated as often as it takes."""
    return noise if len(noise) == samples else np.resize(noise, samples)


def _level(above: str, db: float, audio: Signal) -> float:
    """A level in decibels of full scale."""
    return db if above == "full_scale" else db + rms_db(audio)
