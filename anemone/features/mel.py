"""Log-mel energies: the features most speech models see."""

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
from anemone.types import Audio, Frames, Mel, Samples


@dataclass(frozen=True, kw_only=True)
class LogMelConfig(FeatureConfig):
    """Log-mel energies as NeMo's ``AudioToMelSpectrogramPreprocessor`` computes them."""

    preemphasis: float = 0.97
    """Subtracts this share of the sample before from each sample; 0 leaves the audio."""

    dither: float = 1e-5
    """Standard deviation of white noise added in training, so that silence is not minus infinity."""

    power: float = 2.0
    """Power of the magnitudes: 2 gives energies, 1 magnitudes."""

    log: bool = True
    """Whether to take the logarithm."""

    log_guard: Literal["add", "clamp"] = "add"
    """How zero is kept from the logarithm: ``log(x + log_floor)`` or ``log(max(x, log_floor))``."""

    log_floor: float = 2**-24
    """The smallest energy, see ``log_guard``."""

    normalize: Literal["per_feature", "all_features", "none"] = "per_feature"
    """Zero mean and unit variance over an utterance: for each mel bin, over all of them at once, or not at all."""

    frame_splicing: int = 1
    """Repeats the features this many times. NeMo's option of this name is meant to stack neighbouring frames, but
    stacks copies of one; it is here so that its archives can be read."""

    exact_pad: bool = False
    """Puts ``(n_fft - hop) / 2`` zeros on either side in place of ``n_fft / 2``, so that a vocoder's samples are frames
    times hop. With pre-emphasis NeMo takes as many samples at the end for silence, and so do we."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(0 <= self.preemphasis < 1, "preemphasis", "at least 0 and below 1", value=self.preemphasis)
        must(0 <= self.dither <= 1, "dither", "between 0 and 1", value=self.dither)
        must(0 < self.power <= 10, "power", "above 0 and at most 10", value=self.power)
        must(0 < self.log_floor < math.inf, "log_floor", "above 0 and finite", value=self.log_floor)
        must(1 <= self.frame_splicing <= 64, "frame_splicing", "in 1..64", value=self.frame_splicing)
        must(
            not self.exact_pad or self.fft >= self.hop,
            "exact_pad",
            "off where the hop is longer than `n_fft`",
            value=True,
        )

    def build(self) -> "LogMel":
        """Returns the module."""
        return LogMel(self)


class MelBatch(NamedTuple):
    """Log-mel energies and their lengths."""

    x: Mel[Tensor, "B F={self.num_features} T"]
    x_len: Frames[Tensor, "B"]


class LogMel(nn.Module):
    """Computes normalised log-mel energies, ``hop_ms`` apart; float32 also under autocast.

    An utterance of S samples has ``S // hop`` valid frames; one more is computed and masked, as in NeMo.

    Example:
        >>> features = LogMelConfig(num_mels=64).build()
        >>> mel = features(torch.randn(2, 16000), torch.tensor([16000, 8000]))
        >>> mel.x.shape, mel.x_len.tolist()
        (torch.Size([2, 64, 101]), [100, 50])
    """

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        self.rate, self.hop, self.num_mels = config.rate, config.hop, config.num_mels
        self.num_features = config.num_mels * config.frame_splicing
        self.pad = (config.fft - config.hop if config.exact_pad else config.fft) // 2
        self.energies = MelEnergies(config, scale="slaney", periodic=False, power=config.power)

    def forward(self, x: Audio[Tensor, "B S"], x_len: Samples[Tensor, "B"]) -> MelBatch:
        """Computes features of each utterance.

        Args:
            x: waveforms in [-1, 1].
            x_len: their samples.
        """
        config = self.config
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.training and config.dither:
                x = x + config.dither * torch.randn_like(x)
            frames = (x_len + 2 * self.pad - config.fft) // config.hop
            x = self.energies(self._emphasize(x, x_len))
            if config.log:
                x = torch.log(x + config.log_floor if config.log_guard == "add" else x.clamp(min=config.log_floor))
            keep = keep_frames(x.shape[-1], frames)
            x = normalize(torch.where(keep, x, 0.0), keep, config.normalize)
            if config.pad_value:
                x = torch.where(keep, x, config.pad_value)
            x = x.repeat(1, config.frame_splicing, 1) if config.frame_splicing > 1 else x
            return MelBatch(pad_frames(x, config.pad_to, config.pad_value), frames)

    def _emphasize(self, x: Tensor, x_len: Tensor) -> Tensor:
        """Pre-emphasis, with ``pad`` zeros on either side of each utterance: (B, S) -> (B, S + 2 pad).

        Beyond the zeros after an utterance nothing is cleared: no valid frame reaches there.
        """
        pad, factor = self.pad, self.config.preemphasis
        x = nn.functional.pad(x, (pad + 1, pad))
        x = (x[:, :-1] * -factor).add_(x[:, 1:]) if factor else x[:, 1:].clone()
        silent = 2 * pad if self.config.exact_pad and factor else pad
        end = x_len[:, None] + 2 * pad - silent
        return x.scatter_(1, end + torch.arange(silent, device=x.device), 0.0)


def normalize(x: Tensor, keep: Tensor, over: Literal["per_feature", "all_features", "none"]) -> Tensor:
    """Zero mean and unit variance (of N - 1) over the valid frames: (B, F, T) -> (B, F, T).

    Args:
        x: features, 0 beyond each length.
        keep: mask of the valid frames (B, 1, T).
        over: "per_feature", "all_features" or "none".
    """
    if over == "none":
        return x
    weight = keep.to(x.dtype)
    dims = (-1,) if over == "per_feature" else (-2, -1)
    count = weight.sum(-1, keepdim=True) * (1 if over == "per_feature" else x.shape[1])
    x = (x - x.sum(dims, keepdim=True) / count.clamp(min=1)) * weight
    variance = x.square().sum(dims, keepdim=True) / (count - 1).clamp(min=1)
    return x / (variance.sqrt() + 1e-5)
