"""Intervals hold the true rate as often as they say; a difference that is none is not found, a real one is."""

import numpy as np
import pytest

from anemone.metrics.bootstrap import PIECE, compare, interval

RATE = 0.2


def edits(generator, utterances, rate=RATE, length=12):
    lengths = generator.integers(3, 2 * length, utterances)
    return np.stack([generator.binomial(lengths, rate), lengths], 1)


def test_an_interval_holds_the_true_rate_nineteen_times_in_twenty():
    generator = np.random.default_rng(0)
    held = [low <= RATE <= high for low, high in (interval(edits(generator, 120), seed=i) for i in range(200))]
    assert 0.90 <= np.mean(held) <= 0.985  # three deviations of a share of 0.95 over 200, and the bootstrap's bias


def test_an_interval_is_as_wide_as_the_formula_for_a_mean_says():
    counts = np.stack([np.random.default_rng(1).binomial(10, RATE, 400), np.full(400, 10)], 1)
    low, high = interval(counts)
    deviation = (counts[:, 0] / 10).std() / 20
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.08)


def test_equal_systems_differ_as_often_as_chance_says():
    generator = np.random.default_rng(2)
    values = []
    for i in range(200):
        first, second = edits(generator, 60), edits(generator, 60)
        second[:, 1] = first[:, 1]
        values.append(compare(first, second, seed=i).p_value)
    assert 0.01 <= np.mean(np.array(values) < 0.05) <= 0.10


def test_a_system_that_is_better_everywhere_is_found_better():
    first = edits(np.random.default_rng(3), 80)
    second = np.stack([first[:, 0] // 2, first[:, 1]], 1)
    found = compare(first, second)
    assert found.difference == pytest.approx((second[:, 0].sum() - first[:, 0].sum()) / first[:, 1].sum())
    assert found.interval.low < found.difference < found.interval.high < 0
    assert found.p_value == pytest.approx(1 / 2001)


def test_a_system_is_not_better_than_itself():
    counts = edits(np.random.default_rng(4), 50)
    found = compare(counts, counts)
    assert (found.difference, found.interval, found.p_value) == (0, (0, 0), 1)


def test_draws_are_the_same_each_time_and_need_little_memory_for_many_utterances():
    counts = edits(np.random.default_rng(5), PIECE // 1000)
    assert interval(counts, seed=1) == interval(counts, seed=1) != interval(counts, seed=2)


def test_other_references_are_refused():
    counts = edits(np.random.default_rng(6), 5)
    with pytest.raises(ValueError, match="over the same references"):
        compare(counts, counts + np.array([0, 1]))
