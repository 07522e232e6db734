"""Whisper's features: log-mel energies of half a minute of audio (arXiv:2212.04356, section 2.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anemone.config import must
from anemone.errors import DataError
from anemone.features.mel import MelBatch
from anemone.features.spec_augment import SpecAugmentConfig
from anemone.features.spectrum import FeatureConfig, MelEnergies
from anemone.types import Audio, Samples

FLOOR, RANGE, SHIFT = 1e-10, 8.0, 4.0  # the smallest energy; decades below the loudest that count; what is added


@dataclass(frozen=True, kw_only=True)
class WhisperMelConfig:
    """Features as Whisper's models see them."""

    rate: int = 16_000
    """Samples per second of the audio."""

    num_mels: int = 80
    """Filters on the mel scale; 128 from "large-v3" on."""

    n_fft: int = 400
    """Points of the Fourier transform, and samples in the window."""

    hop: int = 160
    """Samples from frame to frame."""

    seconds: float = 30.0
    """How long every utterance is made with silence; a longer one is refused."""

    dither: float = 0.0
    """Standard deviation of white noise added in training."""

    spec_augment: SpecAugmentConfig | None = None
    """What to hide from the model in training."""

    def __post_init__(self) -> None:
        must(1 <= self.hop <= self.n_fft, "hop", f"in 1..{self.n_fft} (`n_fft`)", value=self.hop)
        must(0 < self.seconds <= 3_600, "seconds", "above 0 and at most 3600", value=self.seconds)
        must(0 <= self.dither <= 1, "dither", "between 0 and 1", value=self.dither)
        must(self.size >= 2 * self.n_fft, "seconds", "longer than two windows", value=self.seconds)
        self.frames()

    @property
    def size(self) -> int:
        """Samples that every utterance has."""
        return int(self.seconds * self.rate)

    def frames(self) -> FeatureConfig:
        """Returns rate, frames and filters."""
        return FeatureConfig(
            rate=self.rate,
            window_ms=1000 * self.n_fft / self.rate,
            hop_ms=1000 * self.hop / self.rate,
            n_fft=self.n_fft,
            num_mels=self.num_mels,
            high_hz=min(8_000.0, self.rate / 2),
        )

    def build(self) -> "WhisperMel":
        """Returns the module."""
        return WhisperMel(self)


class WhisperMel(nn.Module):
    """Computes ``max(log10 energy, loudest - 8) / 4 + 1`` of each utterance, made half a minute long with silence.

    All frames are valid, those of the silence too: so the models were trained, and so padding changes nothing.

    Example:
        >>> features = WhisperMelConfig().build()
        >>> mel = features(torch.randn(2, 16000), torch.tensor([16000, 8000]))
        >>> mel.x.shape, mel.x_len.tolist()
        (torch.Size([2, 80, 3000]), [3000, 3000])
    """

    def __init__(self, config: WhisperMelConfig) -> None:
        super().__init__()
        self.config = config
        self.rate, self.hop = config.rate, config.hop
        self.num_features = self.num_mels = config.num_mels
        self.energies = MelEnergies(config.frames(), scale="slaney", periodic=True)

    def forward(self, x: Audio[Tensor, "B S"], x_len: Samples[Tensor, "B"]) -> MelBatch:
        """Computes features of each utterance.

        Args:
            x: waveforms in [-1, 1].
            x_len: their samples.

        Raises:
            DataError: an utterance is longer than the features.
        """
        size, hop = self.config.size, self.hop
        if x.shape[1] > size:
            raise DataError(
                f"a recording must have at most {self.config.seconds:g} seconds, as the model hears no more, but one "
                f"has {x.shape[1] / self.rate:.1f} instead. Cut it into pieces first."
            )
        with torch.autocast(x.device.type, enabled=False):
            x = torch.where(torch.arange(x.shape[1], device=x.device) < x_len[:, None], x.float(), 0.0)
            x = F.pad(x, (0, size - x.shape[1]))
            if self.training and self.config.dither:
                x = x + self.config.dither * torch.randn_like(x)
            x = F.pad(x[:, None], (self.config.n_fft // 2,) * 2, mode="reflect")[:, 0]
            x = self.energies(x)[..., : size // hop].clamp(min=FLOOR).log10()
            x = torch.maximum(x, x.amax((1, 2), keepdim=True) - RANGE)
            return MelBatch((x + SHIFT) / SHIFT, torch.full_like(x_len, x.shape[2]))
