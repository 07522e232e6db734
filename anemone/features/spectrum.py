"""From samples to a power spectrum on the mel scale: what log-mel and MFCC share.

Frames stand every ``hop`` samples. A frame is a window of ``window_ms`` in the middle of ``n_fft`` samples. Everything
is computed for the whole batch at once, in float32, and nothing depends on how far an utterance is padded.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from anemone.config import must
from anemone.features.spec_augment import SpecAugmentConfig
from anemone.types import Audio, Mel

MAX_RATE = 384_000
MAX_MS = 10_000.0
MAX_FFT = 65_536
MAX_MELS = 1_024
MAX_FILTERBANK = 2**24  # weights of all filters
MAX_PAD = 65_536
BANDS = 4
FRAMES_AT_ONCE = 512

WINDOWS = {
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Settings that all spectral features have."""

    rate: int = 16_000
    """Samples per second of the audio."""

    window_ms: float = 25.0
    """Length of the window, in milliseconds."""

    hop_ms: float = 10.0
    """Time from frame to frame, in milliseconds."""

    n_fft: int | None = None
    """Points of the Fourier transform; by default the next power of two that holds the window."""

    window: Literal["hann", "hamming", "blackman", "bartlett", "none"] = "hann"
    """Shape of the window; "none" weighs all samples alike."""

    num_mels: int = 80
    """Filters on the mel scale."""

    low_hz: float = 0.0
    """Lower end of the lowest filter."""

    high_hz: float | None = None
    """Upper end of the highest filter; by default half the rate."""

    pad_to: int = 0
    """Pads the number of frames to a multiple of this; 0 leaves it."""

    pad_value: float = 0.0
    """What stands in frames beyond an utterance's length."""

    spec_augment: SpecAugmentConfig | None = None
    """What to hide from the model in training."""

    def build(self) -> nn.Module:
        """Returns the module, which takes waveforms and lengths and gives features and lengths."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        must(0 < self.rate <= MAX_RATE, "rate", f"above 0 and at most {MAX_RATE}", value=self.rate)
        for name in ("window_ms", "hop_ms"):
            must(0 < getattr(self, name) <= MAX_MS, name, f"above 0 and at most {MAX_MS:g}", value=getattr(self, name))
        must(self.win >= 2, "window_ms", "at least two samples long", value=self.window_ms)
        must(self.hop >= 1, "hop_ms", "at least one sample long", value=self.hop_ms)
        must(self.win <= MAX_FFT, "window_ms", f"at most {MAX_FFT} samples long", value=self.window_ms)
        span = f"at least the window's {self.win} samples and at most {MAX_FFT}"
        must(self.win <= self.fft <= MAX_FFT, "n_fft", span, value=self.n_fft)
        must(1 <= self.num_mels <= MAX_MELS, "num_mels", f"in 1..{MAX_MELS}", value=self.num_mels)
        most = MAX_FILTERBANK // (self.fft // 2 + 1)
        must(self.num_mels <= most, "num_mels", f"at most {most} for a transform of {self.fft}", value=self.num_mels)
        must(self.top_hz <= self.rate / 2, "high_hz", f"at most half the rate, {self.rate / 2:g}", value=self.high_hz)
        must(0 <= self.low_hz < self.top_hz, "low_hz", f"between 0 and `high_hz` ({self.top_hz:g})", value=self.low_hz)
        must(0 <= self.pad_to <= MAX_PAD, "pad_to", f"in 0..{MAX_PAD}", value=self.pad_to)
        must(math.isfinite(self.pad_value), "pad_value", "finite", value=self.pad_value)

    @property
    def win(self) -> int:
        """Samples in the window."""
        return samples(self.window_ms, self.rate)

    @property
    def hop(self) -> int:
        """Samples from frame to frame."""
        return samples(self.hop_ms, self.rate)

    @property
    def fft(self) -> int:
        """Points of the Fourier transform."""
        return 2 ** math.ceil(math.log2(self.win)) if self.n_fft is None else self.n_fft

    @property
    def top_hz(self) -> float:
        """Upper end of the highest filter, in Hz."""
        return self.rate / 2 if self.high_hz is None else self.high_hz


def samples(milliseconds: float, rate: int) -> int:
    """Whole samples in a time; a rounding error below a whole number does not lose one."""
    return int(milliseconds * rate / 1000 + 1e-6)


class MelEnergies(nn.Module):
    """Computes energies of overlapping frames in the triangular filters of a mel scale.

    Two things make it fast on a CPU. A filter is zero but for a few bins, so the filters are applied in `BANDS` groups,
    each to the bins it needs: a quarter of the work of one product with the whole matrix. And about `FRAMES_AT_ONCE`
    frames go all the way before the next ones begin: they stay in the cache, and no large memory is asked for and given
    back, which costs as much time as the computing.

    Args:
        config: rate, frames and filters.
        scale: "slaney" or "htk", see `mel_filterbank`.
        periodic: whether the window's period is its length, or one less.
        power: power of the magnitudes.
    """

    window: Tensor
    filterbank: Tensor

    def __init__(
        self, config: FeatureConfig, *, scale: Literal["slaney", "htk"], periodic: bool, power: float = 2.0
    ) -> None:
        super().__init__()
        self.hop, self.power = config.hop, power
        self.num_mels = config.num_mels
        filterbank = mel_filterbank(config, scale=scale)
        self.bands = []
        for rows in torch.arange(self.num_mels, device="cpu").chunk(BANDS):
            top, bottom = int(rows[0]), int(rows[-1]) + 1
            bins = filterbank[top:bottom].any(0).nonzero()
            first, last = (int(bins[0]), int(bins[-1]) + 1) if len(bins) else (0, 1)
            self.bands.append((slice(top, bottom), slice(first, last)))
        self.register_buffer("window", make_window(config, periodic=periodic), persistent=False)
        self.register_buffer("filterbank", filterbank.to(torch.get_default_device()), persistent=False)

    def forward(self, x: Audio[Tensor, "B S"]) -> Mel[Tensor, "B F={self.num_mels} T"]:
        """Computes the energies, one frame for each ``hop`` from the first sample on.

        Args:
            x: waveforms, padded as the frames want it.
        """
        frames = x.unfold(-1, self.window.numel(), self.hop)  # (B, T, n_fft), nothing copied
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return self._energies(frames)
        pieces = torch.split(frames, max(16, FRAMES_AT_ONCE // max(1, x.shape[0])), 1)
        return torch.cat([self._energies(piece) for piece in pieces], -1)

    def _energies(self, frames: Tensor) -> Tensor:
        """(B, T, n_fft) -> (B, F, T)."""
        squares = torch.view_as_real(torch.fft.rfft(frames * self.window)).square_()
        energies = squares[..., 0] + squares[..., 1]
        if self.power != 2:
            energies = energies ** (self.power / 2)
        energies = energies.transpose(1, 2)  # (B, T, bins) -> (B, bins, T)
        return torch.cat([self.filterbank[rows, bins] @ energies[:, bins] for rows, bins in self.bands], 1)


def make_window(config: FeatureConfig, *, periodic: bool) -> Tensor:
    """The window (n_fft,), with zeros on both sides of it."""
    shape = WINDOWS.get(config.window)
    with torch.device("cpu"):  # on meta it would make PyTorch import its compiler
        window = torch.ones(config.win) if shape is None else shape(config.win, periodic=periodic)
    left = (config.fft - config.win) // 2
    return nn.functional.pad(window, (left, config.fft - config.win - left)).to(torch.get_default_device())


def mel_filterbank(config: FeatureConfig, *, scale: Literal["slaney", "htk"]) -> Tensor:
    """Triangular filters (num_mels, n_fft // 2 + 1), evenly spaced on a mel scale; always on the CPU.

    On the Slaney scale (Auditory Toolbox, 1998: a line below 1 kHz, a logarithm above) each filter has unit area per
    Hz; on the HTK scale, ``2595 log10(1 + f / 700)``, each has unit height.
    """
    to_mel, to_hz = (slaney_mel, slaney_hz) if scale == "slaney" else (htk_mel, htk_hz)
    with torch.device("cpu"):
        low, high = (to_mel(torch.tensor(hz, dtype=torch.float64)).item() for hz in (config.low_hz, config.top_hz))
        edges = to_hz(torch.linspace(low, high, config.num_mels + 2, dtype=torch.float64))[:, None]
        bins = torch.linspace(0, config.rate / 2, config.fft // 2 + 1, dtype=torch.float64)
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rise, fall).clamp(min=0)
    if scale == "slaney":
        filters = filters * 2 / (edges[2:] - edges[:-2])
    return filters.float()


def slaney_mel(hz: Tensor) -> Tensor:
    """Hz to Slaney's mel: 200 / 3 Hz each up to 1 kHz, then 27 for every factor of 6.4."""
    return torch.where(hz < 1000, hz * 3 / 200, 15 + 27 * torch.log(hz.clamp(min=1) / 1000) / math.log(6.4))


def slaney_hz(mel: Tensor) -> Tensor:
    """Slaney's mel to Hz."""
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


def htk_mel(hz: Tensor) -> Tensor:
    """Hz to HTK's mel."""
    return 2595 * torch.log10(1 + hz / 700)


def htk_hz(mel: Tensor) -> Tensor:
    """HTK's mel to Hz."""
    return 700 * (10 ** (mel / 2595) - 1)


def keep_frames(size: int, frames: Tensor) -> Tensor:
    """Mask (B, 1, size), True within each utterance's number of frames."""
    return torch.arange(size, device=frames.device) < frames[:, None, None]


def pad_frames(x: Tensor, multiple: int, value: float) -> Tensor:
    """Pads the number of frames to a multiple, if that is not 0: (B, F, T) -> (B, F, T')."""
    return nn.functional.pad(x, (0, -x.shape[-1] % multiple), value=value) if multiple else x
