"""What the loader hands to a task."""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Utterances padded to one length.

    Attributes:
        audio: (B, S) float32 samples in [-1, 1], zero beyond each length.
        audio_len: (B,) int64 samples of each.
        targets: (B, U) int64 tokens or class numbers, zero beyond each length.
        target_len: (B,) int64 tokens of each.
        rows: (B,) int64 row numbers in the index.
        rate: samples per second.
    """

    audio: Tensor
    audio_len: Tensor
    targets: Tensor
    target_len: Tensor
    rows: Tensor
    rate: int = 16_000

    @property
    def seconds(self) -> float:
        """Seconds of real audio, padding not counted."""
        return float(self.audio_len.sum()) / self.rate

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the same batch on a device; row numbers stay where they are."""
        audio, audio_len, targets, target_len = (tensor.to(device, non_blocking=True) for tensor in self[:4])
        return self._replace(audio=audio, audio_len=audio_len, targets=targets, target_len=target_len)
