"""What the loader hands to a task."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anemone.data.audio import Signal


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
    def size(self) -> float:
        """Seconds of real audio, padding not counted."""
        return float(self.audio_len.sum()) / self.rate

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the same batch on a device; row numbers stay where they are."""
        audio, audio_len, targets, target_len = (tensor.to(device, non_blocking=True) for tensor in self[:4])
        return self._replace(audio=audio, audio_len=audio_len, targets=targets, target_len=target_len)

    def item(self, i: int) -> "Batch":
        """Returns a batch of the ``i``-th utterance alone, padded as it was."""
        audio, audio_len, targets, target_len, rows = (tensor[i : i + 1] for tensor in self[:5])
        return Batch(audio, audio_len, targets, target_len, rows, self.rate)


def collate(clips: Sequence[Signal], targets: Sequence[Sequence[int]], rows: Sequence[int], *, rate: int) -> Batch:
    """Returns a batch of clips (S_i,) and tokens (U_i,), padded with zeros to the longest."""
    audio, audio_len = _padded(clips, np.float32)
    tokens, target_len = _padded(targets, np.int64)
    return Batch(audio, audio_len, tokens, target_len, torch.tensor(rows), rate)


def _padded(sequences: Sequence[Any], dtype: type[np.generic]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = [len(sequence) for sequence in sequences]
    padded = np.zeros((len(sequences), max(lengths)), dtype)
    for line, sequence, length in zip(padded, sequences, lengths, strict=True):
        line[:length] = sequence
    return torch.from_numpy(padded), torch.tensor(lengths)
