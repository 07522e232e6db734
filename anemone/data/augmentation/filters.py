"""Filters: a response becomes a short kernel, and kernels act block by block through FFTs.

A step leaves the length as it is. What a filter's kernel leaves out is 120 dB below what it holds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anemone.config import must
from anemone.data.audio import Signal
from anemone.data.augmentation.step import Augmented, Clip, StepConfig, ordered

Real = npt.NDArray[np.floating[Any]]
Complex = npt.NDArray[np.complex128]
RINGS = 18.0  # nepers of decay of a filter's slowest pole that a kernel holds
HIGHEST = 0.49  # of the rate: no edge is set above it


@dataclass(frozen=True, kw_only=True)
class LowPassConfig(StepConfig):
    """Takes the highs away (Butterworth)."""

    min_hz: float = 1000.0
    """Least edge, where 3 dB are lost, in hertz."""

    max_hz: float = 4000.0
    """Greatest edge."""

    order: int = 4
    """Slope beyond the edge, in units of 6 dB an octave."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, "min_hz", "max_hz")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples without what lies above an edge drawn uniformly; all if it has no such highs."""
        hz = rng.uniform(self.min_hz, self.max_hz)
        if hz > HIGHEST * clip.rate:
            return Augmented(clip.audio, {"hz": hz})
        return Augmented(filtered(clip.audio, butterworth(clip.rate, self.order, high=hz)), {"hz": hz})


@dataclass(frozen=True, kw_only=True)
class HighPassConfig(StepConfig):
    """Takes the lows away (Butterworth)."""

    min_hz: float = 100.0
    """Least edge, where 3 dB are lost, in hertz."""

    max_hz: float = 400.0
    """Greatest edge."""

    order: int = 4
    """Slope beyond the edge, in units of 6 dB an octave."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, "min_hz", "max_hz")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples without what lies below an edge drawn uniformly."""
        hz = min(rng.uniform(self.min_hz, self.max_hz), HIGHEST * clip.rate)
        return Augmented(filtered(clip.audio, butterworth(clip.rate, self.order, low=hz)), {"hz": hz})


@dataclass(frozen=True, kw_only=True)
class BandPassConfig(StepConfig):
    """Leaves a band (Butterworth): a high-pass, then a low-pass."""

    min_low_hz: float = 100.0
    """Least lower edge in hertz."""

    max_low_hz: float = 500.0
    """Greatest lower edge."""

    min_high_hz: float = 2000.0
    """Least upper edge."""

    max_high_hz: float = 4000.0
    """Greatest upper edge."""

    order: int = 4
    """Slope beyond each edge, in units of 6 dB an octave."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, "min_low_hz", "max_low_hz")
        _check(self, "min_high_hz", "max_high_hz")
        ordered(self, "max_low_hz", "min_high_hz")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples between two edges drawn uniformly."""
        low, high = rng.uniform(self.min_low_hz, self.max_low_hz), rng.uniform(self.min_high_hz, self.max_high_hz)
        kernel = butterworth(clip.rate, self.order, low=min(low, HIGHEST * clip.rate), high=high)
        return Augmented(filtered(clip.audio, kernel), {"low_hz": low, "high_hz": high})


def _check(config: Any, low: str, high: str) -> None:
    must(getattr(config, low) >= 20, low, "20 Hz or more", value=getattr(config, low))
    must(1 <= config.order <= 8, "order", "in 1..8", value=config.order)
    ordered(config, low, high)


# --- kernels ----------------------------------------------------------------------------------------------------------


def butterworth(rate: int, order: int, *, low: float | None = None, high: float | None = None) -> Signal:
    """Returns the impulse response (K,) of a high-pass at ``low`` and a low-pass at ``high``, in Hz, one after another.

    Digital filters by the bilinear transform, with edges prewarped (Butterworth, "On the theory of filter amplifiers",
    1930; Oppenheim and Schafer, "Discrete-time signal processing", chapter 7). An edge that is None, or an upper one
    beyond the band, is no edge.
    """
    high = None if high is not None and high > HIGHEST * rate else high
    poles = np.exp(1j * np.pi * (2 * np.arange(order) + order + 1) / (2 * order))

    def response(hz: Real) -> Complex:
        tangent = np.tan(np.minimum(np.pi * hz / rate, np.pi / 2 - 1e-9))
        total = np.ones(len(hz), np.complex128)
        for pole in poles:
            if high is not None:
                total /= 1j * tangent / np.tan(np.pi * high / rate) - pole
            if low is not None:
                total *= 1j * tangent / (np.tan(np.pi * low / rate) - 1j * pole * tangent)
        return total

    edge = min(edge for edge in (low, high, rate / 2) if edge is not None)
    return kernel(response, rate, RINGS / (2 * np.pi * edge * np.sin(np.pi / (2 * order))))


def kernel(response: Callable[[Real], Complex], rate: int, seconds: float) -> Signal:
    """Returns the impulse response (K,) of a causal filter that dies out within ``seconds``.

    Args:
        response: of frequencies in Hz (N,), the filter's complex factors (N,).
        rate: samples per second.
        seconds: after which nothing is left of an impulse.
    """
    size = 2 ** math.ceil(math.log2(max(seconds * rate, 64)))
    impulse = np.fft.irfft(response(np.fft.rfftfreq(size, 1 / rate)), size)
    return impulse.astype(np.float32)


def filtered(audio: Signal, kernel: Signal) -> Signal:
    """Returns the first S samples of `convolve`."""
    return convolve(audio, kernel)[: len(audio)]


def convolve(audio: Signal, kernel: Signal) -> Signal:
    """Returns the convolution (S + K - 1,) of samples (S,) and a kernel (K,), by overlap-add of FFTs in float32."""
    total, taps = len(audio) + len(kernel) - 1, len(kernel)
    if not len(audio):
        return audio
    size = 2 ** math.ceil(math.log2(max(4 * taps, 4096)))
    if total <= size:
        size = 2 ** math.ceil(math.log2(max(total, 2)))
        whole = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(kernel, size), size)[:total]
        return whole.astype(np.float32, copy=False)
    step = size - taps + 1
    count, full = -(-len(audio) // step), len(audio) // step
    blocks = np.zeros((count, size), np.float32)
    blocks[:full, :step] = audio[: full * step].reshape(full, step)
    blocks[full:, : len(audio) - full * step] = audio[full * step :]
    spectra = np.fft.rfft(blocks)
    spectra *= np.fft.rfft(kernel, size)
    parts = np.fft.irfft(spectra, size).astype(np.float32, copy=False)
    joined = np.zeros((count + 1, step), np.float32)
    joined[:count] = parts[:, :step]
    joined[1:, : taps - 1] += parts[:, step:]
    return joined.reshape(-1)[:total]
