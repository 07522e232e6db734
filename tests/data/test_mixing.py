"""Orders of an epoch: exact draws, passes without gaps, windows that stay together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemone.data.mixing import drawn, draws, shuffled
from anemone.errors import ConfigError

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(sizes, st.floats(0.2, 50), st.none() | st.integers(1, 500), st.data())
def test_draws_are_the_shares_to_within_one_and_sum_exactly(numbers, temperature, total, data):
    weights = data.draw(st.just([]) | st.lists(st.floats(0.01, 9), min_size=len(numbers), max_size=len(numbers)))
    counts = draws(numbers, weights=weights, temperature=temperature, total=total)
    shares = np.asarray(weights or numbers, float) ** (1 / temperature)
    whole = sum(numbers) if total is None else total
    assert sum(counts) == whole
    assert np.abs(counts - whole * shares / shares.sum()).max() < 1 + 1e-6


def test_a_temperature_of_one_keeps_sizes_and_a_high_one_makes_sets_equal():
    assert draws([900, 90, 10], temperature=1) == [900, 90, 10]
    assert draws([900, 90, 10], temperature=1e9, total=999) == [333, 333, 333]
    assert draws([900, 90, 10], weights=[1, 0, 3], total=100) == [25, 0, 75]


def test_a_set_without_utterances_cannot_be_drawn():
    with pytest.raises(ConfigError, match=r"`data\.plan\.weights` must be 0 for a set of which no utterance is left"):
        draws([3, 0], weights=[1, 1])
    assert draws([3, 0], weights=[1, 0]) == draws([3, 0], temperature=2) == [3, 0]


@given(sizes, st.none() | st.integers(1, 50), st.integers(0, 9), st.data())
def test_epochs_draw_pass_after_pass(numbers, window, seed, data):
    """Epochs laid end to end are, of each set, whole passes: each utterance once before any comes again."""
    counts = [data.draw(st.integers(0, 60)) for _ in numbers]
    sets = np.repeat(np.arange(len(numbers)), numbers)
    mixed = np.random.default_rng(seed).permutation(len(sets))
    epochs = [drawn(mixed, sets[mixed], counts, window=window, seed=seed, epoch=epoch) for epoch in range(3)]
    for number, (there, count) in enumerate(zip(numbers, counts, strict=True)):
        for rows, _ in epochs:
            assert (sets[rows] == number).sum() == count
        pairs = {
            (int(r), int(c)) for rows, copies in epochs for r, c in zip(rows, copies, strict=True) if sets[r] == number
        }
        assert len(pairs) == 3 * count  # no utterance is twice the same copy
        for turn in range(3 * count // there):
            assert sum(copy == turn for _, copy in pairs) == there


def test_sets_are_spread_evenly_over_an_epoch():
    sets = np.repeat([0, 1, 2], [5000, 500, 50])
    rows, _ = drawn(np.arange(5550), sets, [3000, 600, 300], window=None, seed=0, epoch=1)
    for piece in np.split(sets[rows], 10):
        assert np.abs(np.bincount(piece, minlength=3) - [300, 60, 30]).max() <= 3


def test_windows_stay_together_and_all_else_changes():
    rng = np.random.default_rng(0)
    rows = shuffled(np.arange(1003), 100, rng)
    assert sorted(rows.tolist()) == list(range(1003))
    windows = rows // 100
    assert (np.diff(windows) != 0).sum() == 10  # eleven pieces, each in one place
    assert windows[0] != 0 or windows[-1] != 10
    assert (np.diff(rows) == 1).mean() < 0.05
    assert shuffled(np.arange(7), 7, rng).tolist() != list(range(7))
