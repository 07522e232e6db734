"""Mel-frequency cepstral coefficients."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from anemone.config import must
from anemone.features.spectrum import (
    FeatureConfig,
    MelEnergies,
    keep_frames,
    pad_frames,
)
from anemone.types import MFCC as Cepstrum
from anemone.types import Audio, Frames, Samples

FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class MFCCConfig(FeatureConfig):
    """MFCCs as NeMo's ``AudioToMFCCPreprocessor`` (torchaudio's ``MFCC``) computes them."""

    num_mels: int = 64
    """Filters on the mel scale."""

    num_mfcc: int = 64
    """Coefficients to keep, the first of them the overall level."""

    edges: Literal["utterance", "batch"] = "utterance"
    """Where the audio is mirrored: at the end of each utterance, so that padding changes nothing, or at the padded end
    of the batch, as NeMo does, which also leaves the frames beyond each length as they come; a model that looks at
    them must see the same. For one utterance both are the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(
            1 <= self.num_mfcc <= self.num_mels, "num_mfcc", f"in 1..{self.num_mels} (`num_mels`)", value=self.num_mfcc
        )

    def build(self) -> "MFCC":
        """Returns the module."""
        return MFCC(self)


class MFCCBatch(NamedTuple):
    """Cepstral coefficients and their lengths."""

    x: Cepstrum[Tensor, "B F={self.num_features} T"]
    x_len: Frames[Tensor, "B"]


class MFCC(nn.Module):
    """Computes the cosine transform of log-mel energies (HTK mel scale); float32 also under autocast.

    An utterance of S samples has ``ceil(S / hop)`` valid frames; the audio is mirrored at both ends.

    Example:
        >>> features = MFCCConfig(num_mfcc=20).build()
        >>> mfcc = features(torch.randn(2, 16000), torch.tensor([16000, 8000]))
        >>> mfcc.x.shape, mfcc.x_len.tolist()
        (torch.Size([2, 20, 101]), [100, 50])
    """

    cosines: Tensor

    def __init__(self, config: MFCCConfig) -> None:
        super().__init__()
        self.config = config
        self.rate, self.hop, self.num_mels = config.rate, config.hop, config.num_mels
        self.num_mfcc = self.num_features = config.num_mfcc
        self.energies = MelEnergies(config, scale="htk", periodic=True)
        self.register_buffer("cosines", cosine_transform(config.num_mfcc, config.num_mels), persistent=False)

    def forward(self, x: Audio[Tensor, "B S"], x_len: Samples[Tensor, "B"]) -> MFCCBatch:
        """Computes features of each utterance.

        Args:
            x: waveforms in [-1, 1].
            x_len: their samples.
        """
        config = self.config
        with torch.autocast(x.device.type, enabled=False):
            end = x_len if config.edges == "utterance" else torch.full_like(x_len, x.shape[1])
            x = self.energies(mirror(x.float(), end, config.fft // 2))
            x = self.cosines @ torch.log(x + FLOOR)  # (B, mels, T) -> (B, F, T)
            frames = -(-x_len // config.hop)
            if config.edges == "utterance":
                x = torch.where(keep_frames(x.shape[-1], frames), x, config.pad_value)
            return MFCCBatch(pad_frames(x, config.pad_to, config.pad_value), frames)


def mirror(x: Tensor, x_len: Tensor, pad: int) -> Tensor:
    """Continues each utterance by its mirror image: (B, S) -> (B, S + 2 pad).

    Args:
        x: waveforms.
        x_len: where each ends.
        pad: samples on either side.
    """
    last = x_len[:, None] - 1
    index = torch.arange(-pad, x.shape[1] + pad, device=x.device).abs()
    index = torch.where(index > last, 2 * last - index, index)
    return x.gather(1, index.clamp(min=0))


def cosine_transform(num_out: int, num_in: int) -> Tensor:
    """The orthonormal DCT-II as a matrix (num_out, num_in)."""
    with torch.device("cpu"):
        rows, columns = torch.arange(num_out)[:, None], torch.arange(num_in)
    matrix = torch.cos(math.pi / num_in * (columns + 0.5) * rows)
    matrix[0] /= math.sqrt(2)
    return (matrix * math.sqrt(2 / num_in)).to(torch.get_default_device())
