"""An order is a permutation, whole or in parts, and another one for each seed and epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemone.data.shuffle import shuffled


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 65_537])
def test_every_row_comes_once(size):
    assert np.array_equal(np.sort(shuffled(np.arange(size), size, seed=1, epoch=2)), np.arange(size))


@given(st.integers(1, 2**40), st.integers(0, 2**32), st.integers(0, 100))
def test_rows_of_a_huge_set_exist_and_differ(size, seed, epoch):
    places = np.unique(np.linspace(0, size - 1, 50).astype(np.int64))
    rows = shuffled(places, size, seed=seed, epoch=epoch)
    assert rows.min() >= 0 and rows.max() < size and len(np.unique(rows)) == len(places)


def test_a_part_is_that_of_the_whole():
    whole = shuffled(np.arange(1000), 1000, seed=3, epoch=0)
    assert np.array_equal(shuffled(np.arange(400, 500), 1000, seed=3, epoch=0), whole[400:500])


def test_orders_differ_between_seeds_and_epochs_and_look_random():
    orders = [shuffled(np.arange(1000), 1000, seed=s, epoch=e) for s in range(3) for e in range(3)]
    for i, order in enumerate(orders):
        for other in orders[:i]:
            assert (order == other).mean() < 0.02
        assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
        assert (np.diff(order) == 1).mean() < 0.01


def test_any_row_may_come_first():
    first = np.bincount([int(shuffled(np.arange(1), 6, seed=s, epoch=0)[0]) for s in range(600)], minlength=6)
    assert first.min() > 60 and first.max() < 150
