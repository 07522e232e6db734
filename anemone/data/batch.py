"""What the loader hands to a task."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anemone.data.audio import Signal

Features = npt.NDArray[np.floating[Any]]


class Batch(NamedTuple):
    """Utterances padded to one length.

    Attributes:
        audio: (B, S) float32 samples in [-1, 1], zero beyond each length.
        audio_len: (B,) int64 samples of each.
        targets: (B, U) int64 tokens or class numbers, zero beyond each length.
        target_len: (B,) int64 tokens of each.
        rows: (B,) int64 row numbers in the index.
        rate: samples per second.
        prompt_len: (B,) int64 tokens at the beginning of each target that are a prompt, given rather than learned;
            None where the task has no prompts.
    """

    audio: Tensor
    audio_len: Tensor
    targets: Tensor
    target_len: Tensor
    rows: Tensor
    rate: int = 16_000
    prompt_len: Tensor | None = None

    @property
    def size(self) -> float:
        """Seconds of real audio, padding not counted."""
        return float(self.audio_len.sum()) / self.rate

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the same batch on a device; row numbers stay where they are."""
        audio, audio_len, targets, target_len = (tensor.to(device, non_blocking=True) for tensor in self[:4])
        prompt_len = _moved(self.prompt_len, device)
        return Batch(audio, audio_len, targets, target_len, self.rows, self.rate, prompt_len)

    def item(self, i: int) -> "Batch":
        """Returns a batch of the ``i``-th utterance alone, padded as it was."""
        audio, audio_len, targets, target_len, rows = (tensor[i : i + 1] for tensor in self[:5])
        return Batch(audio, audio_len, targets, target_len, rows, self.rate, _one(self.prompt_len, i))


class FeatureBatch(NamedTuple):
    """Features of utterances, made elsewhere, padded to one length.

    Attributes:
        features: (B, F, T) float32, zero beyond each length.
        frames: (B,) int64 frames of each.
        targets: (B, U) int64 tokens or class numbers, zero beyond each length.
        target_len: (B,) int64 tokens of each.
        rows: (B,) int64 row numbers in the index.
        hop: seconds from frame to frame.
        prompt_len: as in `Batch`.
    """

    features: Tensor
    frames: Tensor
    targets: Tensor
    target_len: Tensor
    rows: Tensor
    hop: float = 0.01
    prompt_len: Tensor | None = None

    @property
    def size(self) -> float:
        """Seconds of audio that the frames stand for, padding not counted."""
        return float(self.frames.sum()) * self.hop

    def to(self, device: torch.device | str) -> "FeatureBatch":
        """Returns the same batch on a device; row numbers stay where they are."""
        features, frames, targets, target_len = (tensor.to(device, non_blocking=True) for tensor in self[:4])
        prompt_len = _moved(self.prompt_len, device)
        return FeatureBatch(features, frames, targets, target_len, self.rows, self.hop, prompt_len)

    def item(self, i: int) -> "FeatureBatch":
        """Returns a batch of the ``i``-th utterance alone, padded as it was."""
        features, frames, targets, target_len, rows = (tensor[i : i + 1] for tensor in self[:5])
        return FeatureBatch(features, frames, targets, target_len, rows, self.hop, _one(self.prompt_len, i))


def collate(
    clips: Sequence[Signal],
    targets: Sequence[Sequence[int]],
    rows: Sequence[int],
    *,
    rate: int,
    prompt_len: Sequence[int] | None = None,
) -> Batch:
    """Returns a batch of clips (S_i,) and tokens (U_i,), padded with zeros to the longest."""
    audio, audio_len = _padded(clips, np.float32)
    tokens, target_len = _padded(targets, np.int64)
    return Batch(audio, audio_len, tokens, target_len, torch.tensor(rows), rate, _lengths(prompt_len))


def collate_features(
    matrices: Sequence[Features],
    targets: Sequence[Sequence[int]],
    rows: Sequence[int],
    *,
    hop: float,
    pad_frames: int = 0,
    prompt_len: Sequence[int] | None = None,
) -> FeatureBatch:
    """Returns a batch of features (T_i, F) and tokens (U_i,), padded with zeros to the longest and further frames."""
    frames = [len(matrix) for matrix in matrices]
    padded = np.zeros((len(matrices), matrices[0].shape[1], max(frames) + pad_frames), np.float32)
    for place, matrix, length in zip(padded, matrices, frames, strict=True):
        place[:, :length] = matrix.T  # (T, F) -> (F, T)
    tokens, target_len = _padded(targets, np.int64)
    return FeatureBatch(
        features=torch.from_numpy(padded),
        frames=torch.tensor(frames),
        targets=tokens,
        target_len=target_len,
        rows=torch.tensor(rows),
        hop=hop,
        prompt_len=_lengths(prompt_len),
    )


def _padded(sequences: Sequence[Any], dtype: type[np.generic]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = [len(sequence) for sequence in sequences]
    padded = np.zeros((len(sequences), max(lengths)), dtype)
    for line, sequence, length in zip(padded, sequences, lengths, strict=True):
        line[:length] = sequence
    return torch.from_numpy(padded), torch.tensor(lengths)


def _lengths(values: Sequence[int] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values)


def _moved(tensor: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)


def _one(tensor: Tensor | None, i: int) -> Tensor | None:
    return None if tensor is None else tensor[i : i + 1]
