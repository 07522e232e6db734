"""The batch plan: pure, complete, within its limits."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anemone.config import decode
from anemone.data.padding import statistics
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
        ({"num_text_buckets": 0}, r"`plan\.num_text_buckets` must be 1 or more"),
        ({"quadratic_duration": 15}, r"`plan\.quadratic_duration` must be null where `max_batch_seconds` is"),
        ({"weights": [0, 0]}, r"`plan\.weights` must be 0 or more each, and not all 0, but is \[0.0, 0.0\]"),
        ({"temperature": 0}, r"`plan\.temperature` must be above 0"),
        ({"epoch_size": 5}, r"`plan\.epoch_size` must be null where neither `weights` nor `temperature` is set"),
        ({"temperature": 1, "shuffle": False}, r"`plan\.shuffle` must be true where sets are mixed"),
        ({"buckets": 2}, r"`plan\.buckets` is not a setting of PlanConfig\. Did you mean `plan\.num_buckets`"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        decode(PlanConfig, settings, "plan")


# --- costs, two dimensions, windows, strata, the worst first ----------------------------------------------------------

texts = st.lists(st.integers(0, 300), min_size=120, max_size=120).map(np.int32)
many = st.builds(
    PlanConfig,
    batch_size=st.none() | st.integers(1, 40),
    max_batch_seconds=st.floats(0.5, 400),
    quadratic_duration=st.none() | st.floats(1, 40),
    max_batch_chars=st.none() | st.integers(1, 2000),
    num_buckets=st.integers(1, 12),
    num_text_buckets=st.integers(1, 5),
    shuffle=st.booleans(),
    shuffle_window=st.none() | st.integers(1, 200),
    num_strata=st.integers(1, 9),
    worst_first=st.booleans(),
)


@settings(deadline=None, max_examples=300)
@given(durations, texts, many, st.integers(0, 5), st.integers(0, 2))
def test_all_budgets_hold_at_once_and_every_row_comes_once(durations, texts, config, seed, epoch):
    texts = texts[: len(durations)]
    batches = plan(durations, config, seed=seed, epoch=epoch, text_lens=texts)
    assert sorted(np.concatenate([np.zeros(0, int), *batches])) == list(range(len(durations)))
    for rows in batches:
        longest = float(durations[rows].max())
        cost = longest + longest**2 / (config.quadratic_duration or np.inf)
        assert 1 <= len(rows) <= (config.size or len(rows))
        assert len(rows) == 1 or len(rows) * cost <= config.max_batch_seconds
        assert len(rows) == 1 or len(rows) * int(texts[rows].max()) <= (config.max_batch_chars or np.inf)


def speech_like(count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Seconds, log-normal, and characters at about 14 a second, of rates that differ."""
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(1.9, 0.6, count), 0.5, 30).astype(np.float32)
    return seconds, (seconds * 14 * rng.lognormal(0, 0.4, count)).astype(np.int32)


def test_attention_cost_takes_fewer_of_the_long_ones():
    seconds, _ = speech_like()
    plain = plan(seconds, PlanConfig(max_batch_seconds=300, num_buckets=20), seed=0, epoch=0)
    costly = PlanConfig(max_batch_seconds=300, quadratic_duration=15, num_buckets=20)
    squared = plan(seconds, costly, seed=0, epoch=0)

    def size_of(batches, least, most):
        sizes = [len(rows) for rows in batches if least < seconds[rows].min() and seconds[rows].max() < most]
        return np.median(sizes)

    for least, most in ((0, 4), (10, 15), (20, 30)):
        middle = (max(least, 2) + most) / 2
        expected = 1 / (1 + middle / 15)
        assert size_of(squared, least, most) / size_of(plain, least, most) == pytest.approx(expected, rel=0.2)


def test_text_buckets_save_padding_of_texts_and_cost_little_of_audio():
    seconds, texts = speech_like()

    def padding(lengths, **settings):
        batches = plan(seconds, PlanConfig(batch_size=16, **settings), seed=0, epoch=0, text_lens=texts)
        return 1 - lengths.sum() / sum(len(rows) * int(lengths[rows].max()) for rows in batches)

    assert padding(texts, num_buckets=20) > 0.4
    assert padding(texts, num_buckets=20, num_text_buckets=6) < 0.2
    assert statistics(plan(seconds, PlanConfig(batch_size=16, num_buckets=20), seed=0, epoch=0), seconds).padding < 0.08
    both = PlanConfig(batch_size=16, num_buckets=20, num_text_buckets=6)
    assert statistics(plan(seconds, both, seed=0, epoch=0, text_lens=texts), seconds).padding < 0.1


def test_windows_keep_reading_near_and_buckets_full():
    seconds, _ = speech_like()
    window = 2000
    config = PlanConfig(max_batch_seconds=100, num_buckets=10, shuffle_window=window)
    batches = plan(seconds, config, seed=0, epoch=0)
    where = [set((rows // window).tolist()) for rows in batches]
    assert np.mean([len(touched) == 1 for touched in where]) > 0.9  # the others take what a window had left
    runs = [next(iter(touched)) for touched in where if len(touched) == 1]
    assert sum(a != b for a, b in itertools.pairwise(runs)) == 9  # a window is read to its end before the next
    whole = plan(seconds, PlanConfig(max_batch_seconds=100, num_buckets=10), seed=0, epoch=0)
    assert len(batches) <= len(whole) * 1.01
    means = [seconds[rows].mean() for rows in batches]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2


@pytest.mark.parametrize("window", [None, 5000])
def test_strata_make_steps_alike_while_buckets_mix(window):
    seconds, _ = speech_like()

    def spread(strata):
        config = PlanConfig(batch_size=8, num_buckets=20, num_strata=strata, shuffle_window=window)
        batches = plan(seconds, config, seed=0, epoch=0)
        cost = np.array([len(rows) * seconds[rows].max() for rows in batches])
        steps = cost[: len(cost) // 8 * 8].reshape(-1, 8).sum(1)
        return steps.std() / steps.mean(), np.corrcoef(cost[:-1], cost[1:])[0, 1]

    (any_order, _), (even, correlation) = spread(1), spread(8)
    assert even < 0.55 * any_order
    assert -0.4 < correlation < 0.1


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_costliest_come_first_in_the_first_epoch_alone(shuffle):
    seconds, texts = speech_like(3000)
    config = PlanConfig(batch_size=8, num_buckets=20, worst_first=True, shuffle=shuffle)
    first, second = (plan(seconds, config, seed=0, epoch=epoch, text_lens=texts) for epoch in range(2))
    cost = [len(rows) * seconds[rows].max() for rows in first]
    chars = [len(rows) * texts[rows].max() for rows in first]
    assert cost[0] == max(cost) and max(chars[:3]) == max(chars)
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(3000))
    calm = PlanConfig(batch_size=8, num_buckets=20, shuffle=shuffle)
    same = [rows.tolist() for rows in plan(seconds, calm, seed=0, epoch=1, text_lens=texts)]
    assert [rows.tolist() for rows in second] == same
    rest = {tuple(rows.tolist()) for rows in first[:3]}
    order = [rows.tolist() for rows in plan(seconds, calm, seed=0, epoch=0) if tuple(rows.tolist()) not in rest]
    assert [rows.tolist() for rows in first if tuple(rows.tolist()) not in rest] == order


def test_statistics_count_what_is_there():
    seconds = np.float32([4, 1, 2, 2])
    told = statistics(plan(seconds, PlanConfig(batch_size=3, shuffle=False), seed=0, epoch=0), seconds)
    assert told == (2, 4, 1, 3, 9.0, 14.0, 12.0)
    assert told.padding == pytest.approx(5 / 14)
    assert str(told) == "2 micro-batches of 1 to 3 utterances, at most 12.0 s with padding, which is 35.7% of all"
    nothing = statistics(plan(seconds, PlanConfig(min_seconds=9), seed=0, epoch=0), seconds)
    assert nothing.batches == 0 and nothing.padding == 0


def test_a_plan_is_a_sequence():
    batches = plan(np.ones(7, np.float32), PlanConfig(batch_size=3, shuffle=False), seed=0, epoch=4)
    assert len(batches) == 3 and batches[-1].tolist() == [6]
    assert [rows.tolist() for rows in batches[1:]] == [[3, 4, 5], [6]]
    assert batches.copies(1).tolist() == [4, 4, 4]
    with pytest.raises(IndexError):
        batches[3]
