"""Batches: padding, lengths, moving."""

import numpy as np
import torch

from anemone.data.batch import Batch, collate


def test_collate_pads_with_zeros():
    batch = collate([np.float32([1, 2, 3]), np.float32([4])], [[5, 6], []], [8, 3], rate=2)
    assert batch.audio.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch.targets.tolist() == [[5, 6], [0, 0]]
    assert [t.tolist() for t in (batch.audio_len, batch.target_len, batch.rows)] == [[3, 1], [2, 0], [8, 3]]
    assert batch.audio.dtype == torch.float32
    assert {t.dtype for t in batch[1:5]} == {torch.int64}
    assert batch.size == 2.0


def test_texts_may_all_be_empty():
    batch = collate([np.ones(2, np.float32)], [[]], [0], rate=16_000)
    assert batch.targets.shape == (1, 0) and batch.targets.dtype == torch.int64


def test_moving_leaves_row_numbers_and_rate():
    batch = collate([np.ones(2, np.float32)], [[1]], [7], rate=8_000)
    moved = batch.to("meta")
    assert all(tensor.is_meta for tensor in moved[:4])
    assert moved.rows.tolist() == [7] and moved.rate == 8_000
    assert isinstance(moved, Batch)
