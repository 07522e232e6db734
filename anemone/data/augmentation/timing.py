"""Steps that change time and pitch: speed, tempo, pitch, shift, silence, pieces."""

from dataclasses import dataclass

import numpy as np

from anemone.config import must
from anemone.data.audio import Signal, resample
from anemone.data.augmentation.step import Augmented, Clip, StepConfig, ordered

SEGMENT, OVERLAP, SEARCH = 0.050, 0.012, 0.015  # seconds of a piece that tempo moves, of its fade, of where it looks


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
class TempoConfig(StepConfig):
    """Slower or faster; the pitch stays."""

    min_factor: float = 0.9
    """Least factor of the length: below 1 is faster."""

    max_factor: float = 1.1
    """Greatest factor of the length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(self.min_factor >= 0.25, "min_factor", "0.25 or more", value=self.min_factor)
        must(self.max_factor <= 4, "max_factor", "at most 4", value=self.max_factor)
        ordered(self, "min_factor", "max_factor")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns `tempo` by a factor drawn uniformly."""
        factor = rng.uniform(self.min_factor, self.max_factor)
        return Augmented(tempo(clip.audio, clip.rate, factor), {"factor": factor})


@dataclass(frozen=True, kw_only=True)
class PitchConfig(StepConfig):
    """Lower or higher; the length stays."""

    min_semitones: float = -2.0
    """Least change in semitones."""

    max_semitones: float = 2.0
    """Greatest change in semitones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(self.min_semitones >= -24, "min_semitones", "-24 or more", value=self.min_semitones)
        must(self.max_semitones <= 24, "max_semitones", "at most 24", value=self.max_semitones)
        ordered(self, "min_semitones", "max_semitones")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns `pitch` by semitones drawn uniformly."""
        semitones = rng.uniform(self.min_semitones, self.max_semitones)
        return Augmented(pitch(clip.audio, clip.rate, semitones), {"semitones": semitones})


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


@dataclass(frozen=True, kw_only=True)
class SilenceConfig(StepConfig):
    """Silence before and after."""

    min_before: float = 0.0
    """Least seconds before."""

    max_before: float = 0.5
    """Greatest seconds before."""

    min_after: float = 0.0
    """Least seconds after."""

    max_after: float = 0.5
    """Greatest seconds after."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high in (("min_before", "max_before"), ("min_after", "max_after")):
            must(getattr(self, low) >= 0, low, "0 seconds or more", value=getattr(self, low))
            must(getattr(self, high) <= 60, high, "at most 60 seconds", value=getattr(self, high))
            ordered(self, low, high)

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples with zeros around them."""
        before, after = rng.uniform(self.min_before, self.max_before), rng.uniform(self.min_after, self.max_after)
        audio = np.pad(clip.audio, (round(before * clip.rate), round(after * clip.rate)))
        return Augmented(audio, {"before": before, "after": after})


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(StepConfig):
    """A random piece of a longer utterance, for tasks whose target holds for any piece: speakers, languages, noise."""

    min_seconds: float = 3.0
    """Least length of the piece."""

    max_seconds: float = 3.0
    """Greatest length of the piece."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(self.min_seconds > 0, "min_seconds", "above 0", value=self.min_seconds)
        ordered(self, "min_seconds", "max_seconds")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns a piece of a length and at a place drawn uniformly; all of what is shorter."""
        size = min(len(clip.audio), max(1, round(rng.uniform(self.min_seconds, self.max_seconds) * clip.rate)))
        start = int(rng.integers(len(clip.audio) - size + 1))
        drawn = {"start": start / clip.rate, "seconds": size / clip.rate}
        return Augmented(clip.audio[start : start + size], drawn)


def speed(audio: Signal, rate: int, factor: float) -> Signal:
    """Returns samples (S * factor,): audio resampled from ``rate`` to ``rate * factor`` and played at ``rate``."""
    return resample(audio, rate, int(rate * factor))


def tempo(audio: Signal, rate: int, factor: float) -> Signal:
    """Returns samples (S * factor,) of the same pitch, by overlap and add of similar waveforms (WSOLA).

    Each piece of the output is the one, near where it is due, that goes on most like what stands before it: the cosine
    of the two is greatest where they fade into each other (Verhelst and Roelands, ICASSP 1993).
    """
    size, fade, reach = (max(2, round(seconds * rate)) for seconds in (SEGMENT, OVERLAP, SEARCH))
    step, total = size - fade, round(len(audio) * factor)
    if factor == 1 or len(audio) < size + reach:
        return audio if factor == 1 else resample(audio, max(1, len(audio)), max(1, total))
    count = -(-total // step)
    padded = np.concatenate([audio, np.zeros(size + reach + fade, np.float32)])
    energy = np.concatenate([[0.0], np.cumsum(padded.astype(np.float64) ** 2)])
    length = np.sqrt(energy[fade:] - energy[:-fade] + 1e-9).astype(np.float32)
    out = np.empty(count * step + fade, np.float32)
    out[:size] = padded[:size]
    rise = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
    start = 0
    for i in range(1, count):
        due = min(max(0, round(i * step / factor) - reach // 2), len(audio) - 1)
        likeness = np.correlate(padded[due : due + reach + fade - 1], padded[start + step : start + size], "valid")
        start = due + int(np.argmax(likeness / length[due : due + reach]))
        at = i * step
        out[at : at + fade] += rise * (padded[start : start + fade] - out[at : at + fade])
        out[at + fade : at + size] = padded[start + fade : start + size]
    return out[:total]


def pitch(audio: Signal, rate: int, semitones: float) -> Signal:
    """Returns samples (S,) higher by ``semitones``: played faster by ``2 ** (semitones / 12)``, then `tempo` back."""
    factor = 2 ** (semitones / 12)
    faster = resample(audio, round(rate * factor), rate)
    slow = tempo(faster, rate, len(audio) / max(1, len(faster)))
    return np.pad(slow, (0, max(0, len(audio) - len(slow))))[: len(audio)]


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
