"""The batch plan: pure, complete, within its limits."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anemone.config import decode
from anemone.data.plan import PlanConfig, plan
from anemone.errors import ConfigError

durations = st.lists(st.floats(0.0625, 30, width=32), max_size=120).map(np.float32)
configs = st.builds(
    PlanConfig,
    batch_size=st.none() | st.integers(1, 40),
    max_batch_seconds=st.none() | st.floats(0.5, 400),
    num_buckets=st.integers(1, 12),
    shuffle=st.booleans(),
)


@settings(deadline=None, max_examples=300)
@given(durations, configs, st.integers(0, 5), st.integers(0, 5))
def test_every_row_is_in_one_batch_and_batches_keep_their_limits(durations, config, seed, epoch):
    batches = plan(durations, config, seed=seed, epoch=epoch)
    assert sorted(np.concatenate([np.zeros(0, int), *batches])) == list(range(len(durations)))
    for rows in batches:
        assert 1 <= len(rows) <= (config.size or len(rows))
        padded = len(rows) * float(durations[rows].max())
        assert len(rows) == 1 or padded <= (config.max_batch_seconds or np.inf)


@settings(deadline=None)
@given(durations, configs, st.integers(0, 5), st.integers(0, 5))
def test_a_plan_is_a_pure_function(durations, config, seed, epoch):
    first = plan(durations, config, seed=seed, epoch=epoch)
    np.random.seed(1)
    second = plan(durations.copy(), config, seed=seed, epoch=epoch)
    assert [rows.tolist() for rows in first] == [rows.tolist() for rows in second]


@settings(deadline=None)
@given(durations, st.floats(1, 400))
def test_a_budget_is_used_up(durations, budget):
    """No batch could take the first utterance of the next one in the same bucket order."""
    batches = plan(durations, PlanConfig(max_batch_seconds=budget, shuffle=False), seed=0, epoch=0)
    for rows, after in itertools.pairwise(batches):
        longest = float(durations[[*rows, after[0]]].max())
        assert longest * (len(rows) + 1) > budget


def test_epochs_and_seeds_differ_when_shuffled():
    lengths = np.ones(50, np.float32)
    orders = {
        tuple(np.concatenate(plan(lengths, PlanConfig(batch_size=5), seed=seed, epoch=epoch)).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_without_shuffle_the_order_is_the_manifests():
    batches = plan(np.ones(7, np.float32), PlanConfig(batch_size=3, shuffle=False), seed=0, epoch=4)
    assert [rows.tolist() for rows in batches] == [[0, 1, 2], [3, 4, 5], [6]]


def test_buckets_save_padding_and_still_mix():
    lengths = np.random.default_rng(0).uniform(1, 20, 2000).astype(np.float32)

    def padding(num_buckets):
        batches = plan(lengths, PlanConfig(batch_size=16, num_buckets=num_buckets), seed=0, epoch=0)
        padded = sum(len(rows) * lengths[rows].max() for rows in batches)
        return 1 - lengths.sum() / padded, batches

    (none, _), (some, batches), (many, _) = padding(1), padding(10), padding(50)
    assert none > 0.4 and some < 0.12 and many < some
    assert all(np.ptp(lengths[rows]) > 0.1 for rows in batches)  # not merely sorted
    means = [lengths[rows].mean() for rows in batches]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3  # short and long batches take turns


def test_buckets_hold_equal_seconds():
    from anemone.data.buckets import buckets

    lengths = np.random.default_rng(0).exponential(5, 5000).astype(np.float32)
    seconds = [lengths[buckets(lengths, 8) == bucket].sum() for bucket in range(8)]
    assert np.ptp(seconds) < 0.02 * np.mean(seconds)


def test_too_short_and_too_long_are_left_out():
    lengths = np.float32([0.1, 0.5, 1.0, 2.0, 2.1])
    rows = np.concatenate(plan(lengths, PlanConfig(min_seconds=0.5, max_seconds=2.0), seed=0, epoch=0))
    assert sorted(rows) == [1, 2, 3]
    assert len(plan(lengths, PlanConfig(min_seconds=3), seed=0, epoch=0)) == 0


def test_an_utterance_beyond_the_budget_stands_alone():
    batches = plan(np.float32([1, 50, 1]), PlanConfig(max_batch_seconds=10, shuffle=False), seed=0, epoch=0)
    assert [rows.tolist() for rows in batches] == [[0], [1], [2]]


def test_a_large_plan_takes_little_time():
    import time

    lengths = np.random.default_rng(0).uniform(1, 20, 200_000).astype(np.float32)
    start = time.process_time()
    plan(lengths, PlanConfig(max_batch_seconds=300, num_buckets=30), seed=0, epoch=0)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, r"`plan\.batch_size` must be 1 or more, but is 0 instead"),
        ({"max_batch_seconds": 0}, r"`plan\.max_batch_seconds` must be above 0"),
        ({"num_buckets": 0}, r"`plan\.num_buckets` must be 1 or more"),
        ({"min_seconds": -1}, r"`plan\.min_seconds` must be 0 or more"),
        ({"min_seconds": 2, "max_seconds": 1}, r"`plan\.max_seconds` must be above min_seconds \(2\)"),
        ({"buckets": 2}, r"`plan\.buckets` is not a setting of PlanConfig\. Did you mean `plan\.num_buckets`"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        decode(PlanConfig, settings, "plan")
