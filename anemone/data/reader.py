"""Micro-batches from rows: what runs in the workers."""

from typing import Any

import torch
from torch.utils.data import Dataset

from anemone.data.audio import Recordings
from anemone.data.augmentation import Recipe, augment
from anemone.data.batch import Batch, FeatureBatch, collate
from anemone.data.epochs import Key
from anemone.data.manifest import Index
from anemone.data.targets import Encode, row_encode
from anemone.errors import DataError

Loaded = tuple[Batch | FeatureBatch | None, list[tuple[int, str]]]
"""A micro-batch, and row and cause of each utterance it lost."""

SMALL = "audio_len", "frames", "targets", "target_len", "rows", "prompt_len"  # fields of a batch that weigh nothing


class Reader(Dataset[Loaded]):
    """Makes micro-batches: recordings, tokens, padding. Runs in the workers.

    Args:
        index: the utterances.
        recordings: gives their audio.
        encode: target text -> tokens or class number; raises DataError for one it does not know.
        recipe: augmentation to apply.
        seed: of the augmentation.
    """

    def __init__(self, index: Index, recordings: Recordings, encode: Encode, *, recipe: Recipe, seed: int) -> None:
        self.index, self.recordings, self.targets = index, recordings, row_encode(encode)
        self.recipe, self.seed = recipe.opened(recordings.rate), seed

    def __getitem__(self, key: Key) -> Loaded:
        """Returns the micro-batch of some rows, None if none of them can be used, and what is wrong with the others."""
        copies, numbers = key
        clips, targets, rows, failures = [], [], [], []
        whole = zip(self.index.rows(numbers), self.index.values(numbers, self.targets.columns), strict=True)
        for number, copy, (row, values) in zip(numbers.tolist(), copies.tolist(), whole, strict=True):
            try:
                target = self.targets.of(row.target, values)
                clip = self.recordings.piece(row.audio, row.offset, row.duration, channel=row.channel)
                if self.recipe.waveform:
                    clip = augment(clip, self.recordings.rate, self.recipe, seed=self.seed, id=row.id, copy=copy).audio
            except DataError as error:
                failures.append((number, str(error)))
                continue
            clips.append(clip)
            targets.append(target)
            rows.append(number)
        if not rows:
            return None, failures
        tokens, prompt_len = self.targets.joined(targets)
        return collate(clips, tokens, rows, rate=self.recordings.rate, prompt_len=prompt_len), failures


def pack(loaded: Any) -> Any:
    """Makes ready for the way out of a worker: samples in shared memory, small arrays in the message (2-3x cheaper)."""
    batch, failures = loaded
    if batch is None:
        return None, failures
    return batch._replace(**{name: getattr(batch, name).numpy() for name in _small(batch)}), failures


def unpack(packed: Any) -> Loaded:
    """Returns what `pack` was given."""
    batch, failures = packed
    if batch is None:
        return None, failures
    return batch._replace(**{name: torch.from_numpy(getattr(batch, name)) for name in _small(batch)}), failures


def _small(batch: Batch | FeatureBatch) -> list[str]:
    return [name for name in SMALL if getattr(batch, name, None) is not None]
