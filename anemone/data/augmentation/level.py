"""Steps that change how loud an utterance is: gain, loudness, clipping."""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anemone.config import must
from anemone.data.audio import Signal
from anemone.data.augmentation.filters import Complex, Real, filtered, kernel
from anemone.data.augmentation.step import Augmented, Clip, StepConfig, ordered

SILENT = -70.0  # LUFS: blocks below it do not count


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


@dataclass(frozen=True, kw_only=True)
class LoudnessConfig(StepConfig):
    """As loud as drawn, however loud it was; a peak that would pass full scale is brought there instead."""

    min_db: float = -27.0
    """Least loudness, in LUFS or in decibels of full scale."""

    max_db: float = -19.0
    """Greatest loudness."""

    measure: Literal["lufs", "rms"] = "lufs"
    """What loudness is: integrated and gated as in ITU-R BS.1770-4, or the root mean square."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(self, "min_db", "max_db")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples at a loudness drawn uniformly; silence stays."""
        db = rng.uniform(self.min_db, self.max_db)
        now = loudness(clip.audio, clip.rate) if self.measure == "lufs" else rms_db(clip.audio)
        peak = float(np.abs(clip.audio).max(initial=0))
        change = min(db - now, -20 * math.log10(peak)) if math.isfinite(now) and peak else 0.0
        return Augmented(gain(clip.audio, change), {"db": db, "gain_db": change})


@dataclass(frozen=True, kw_only=True)
class ClipConfig(StepConfig):
    """Peaks cut off, as by a microphone that is turned up too far; the rest stays as loud as it was."""

    min_db: float = 0.0
    """Least height of the peak above where it is cut, in decibels."""

    max_db: float = 12.0
    """Greatest height."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(self.min_db >= 0, "min_db", "0 dB or more", value=self.min_db)
        ordered(self, "min_db", "max_db")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples cut at a level drawn uniformly in decibels below their peak."""
        db = rng.uniform(self.min_db, self.max_db)
        most = np.float32(np.abs(clip.audio).max(initial=0) * 10 ** (-db / 20))
        return Augmented(np.clip(clip.audio, -most, most), {"db": db})


def gain(audio: Signal, db: float) -> Signal:
    """Returns ``audio * 10 ** (db / 20)``."""
    return audio * np.float32(10 ** (db / 20))


def rms_db(audio: Signal) -> float:
    """Returns ``10 log10`` of the mean square, in decibels of full scale; -inf for silence."""
    power = float(np.dot(audio, audio)) / max(1, len(audio))
    return 10 * math.log10(power) if power > 0 else -math.inf


def loudness(audio: Signal, rate: int) -> float:
    """Returns the integrated loudness in LUFS (ITU-R BS.1770-4): K-weighted blocks of 0.4 s, gated twice.

    What is shorter than a block is one; -inf if all is silent.
    """
    weighted = filtered(audio, k_weighting(rate)).astype(np.float64)
    hop = round(rate / 10)
    hops = np.add.reduceat(weighted**2, np.arange(0, len(weighted), hop)) if len(weighted) else np.zeros(0)
    hops = hops[: len(weighted) // hop]  # whole ones
    short = len(hops) < 4
    power = np.array([np.mean(weighted**2)]) if short else np.convolve(hops, np.ones(4), "valid") / (4 * hop)
    kept = power[power > _power(SILENT)]
    if not len(kept):
        return -math.inf
    kept = kept[kept > kept.mean() / 10]  # 10 LU below the mean
    return -0.691 + 10 * math.log10(kept.mean())


def _power(lufs: float) -> float:
    return float(10 ** ((lufs + 0.691) / 10))


@functools.lru_cache(maxsize=8)
def k_weighting(rate: int) -> Signal:
    """Returns the kernel (K,) of the K-weighting at any rate.

    The standard's two biquads hold for 48 kHz; they are the bilinear transforms of a shelf of 4 dB from 1682 Hz on and
    of a high-pass at 38 Hz (De Man, "Evaluation of implementations of the EBU R128 loudness measurement", AES 2018),
    which are taken to this rate.
    """

    def response(hz: Real) -> Complex:
        tangent = np.tan(np.minimum(np.pi * hz / rate, np.pi / 2 - 1e-9))
        s, q, high = 1j * tangent / np.tan(np.pi * 1681.974450955533 / rate), 0.7071752369554196, 1.584864701130855
        shelf = (high * s**2 + high**0.4996667741545416 / q * s + 1) / (s**2 + s / q + 1)
        s, q = 1j * tangent / np.tan(np.pi * 38.13547087602444 / rate), 0.5003270373238773
        scale = 1 + (w := np.tan(np.pi * 38.13547087602444 / 48_000)) / q + w**2  # the standard's, at 48 kHz
        result: Complex = shelf * scale * s**2 / (s**2 + s / q + 1)
        return result

    return kernel(response, rate, 0.1)
