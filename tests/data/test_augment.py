"""Waveform augmentation: equal to golden arrays, and random in a way that can be repeated."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from anemone.config import decode
from anemone.data import augment as a
from anemone.data.audio import Signal
from anemone.errors import ConfigError

GOLDEN = np.load(Path(__file__).parents[1] / "golden/parity/augment/values.npz")
RATE = 16_000


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_equals_the_golden_array_but_for_the_band_s_edge(factor, x):
    """The golden array was resampled by FFT over the whole signal, ours by a filter: they part near 8 kHz alone."""
    ours, golden = a.speed(x, RATE, factor), GOLDEN[f"speed_{factor}"]
    assert ours.shape == golden.shape == (round(RATE * factor),)
    assert np.sqrt(np.mean((ours - golden) ** 2)) < 0.003 * np.sqrt(np.mean(golden**2))
    low = len(ours) // 2 * 0.85  # of the spectrum's lines, those below
    difference = np.abs(np.fft.rfft(ours - golden))[: int(low * min(1, 1 / factor))]
    assert difference.max() < 2e-3 * np.abs(np.fft.rfft(golden)).max()


@pytest.mark.parametrize("ms", [100, -100])
def test_shift_equals_the_golden_array(ms, x):
    assert np.array_equal(a.shift(x, ms * RATE // 1000), GOLDEN[f"shift_{ms}ms"])


@pytest.mark.parametrize("db", [-6, 10])
def test_gain_equals_the_golden_array(db, x):
    assert np.array_equal(a.gain(x, db), GOLDEN[f"gain_{db}"])


def test_white_noise_has_the_golden_level(x, seed=3):
    noise = a.white_noise(x, -60, np.random.default_rng(seed)) - x
    assert noise.std() == pytest.approx(1e-3, rel=0.03)
    assert (GOLDEN["white_noise_-60"] - x).std() == pytest.approx(1e-3, rel=0.03)
    assert abs(noise.mean()) < 5e-5


def test_a_shift_beyond_the_end_changes_nothing(x):
    assert a.shift(x[:10], 10) is not None and np.array_equal(a.shift(x[:10], 10), x[:10])
    assert np.array_equal(a.shift(x, 0), x)


ALL = a.AugmentConfig(
    speed=a.SpeedConfig(p=0.7),
    shift=a.ShiftConfig(p=0.7),
    gain=a.GainConfig(p=0.7),
    white_noise=a.WhiteNoiseConfig(p=0.7),
)


def changed(x: Signal, seed: int, epoch: int, row: int) -> Signal:
    return a.augment(x, RATE, ALL.chosen, seed=seed, epoch=epoch, row=row)


def test_the_same_utterance_in_the_same_epoch_is_changed_alike(x):
    before = x.copy()
    first = changed(x, 1, 2, 3)
    np.random.seed(5)
    assert np.array_equal(first, changed(x, 1, 2, 3))
    assert np.array_equal(x, before)
    assert first.dtype == np.float32


def test_seed_epoch_and_row_each_make_a_difference(x):
    results = {changed(x, *key).tobytes() for key in np.ndindex(3, 3, 3)}
    assert len(results) >= 25  # an utterance may go through unchanged


@pytest.mark.parametrize("kind", [field.name for field in fields(a.AugmentConfig)])
def test_each_kind_acts_with_its_probability(kind, x):
    for p, least, most in [(0.0, 0, 0), (0.5, 70, 130), (1.0, 190, 200)]:
        settings = {"p": p, **({"factors": [0.9, 1.1]} if kind == "speed" else {})}
        kinds = decode(a.AugmentConfig, {kind: settings}).chosen
        assert len(kinds) == 1
        clip = x[4000:4400]
        results = [a.augment(clip, RATE, kinds, seed=0, epoch=0, row=row) for row in range(200)]
        count = sum(not np.array_equal(result, clip) for result in results)
        assert least <= count <= most


def test_kinds_that_are_left_out_do_nothing(x):
    assert a.AugmentConfig().chosen == ()
    assert a.augment(x, RATE, (), seed=0, epoch=0, row=0) is x


def test_draws_stay_in_their_range():
    ones = np.ones(1000, np.float32)
    rng = np.random.default_rng(0)
    gains = [a.GainConfig(min_db=-6, max_db=6).draw(ones, RATE, rng)[0] for _ in range(200)]
    assert 0.5 < min(gains) < 0.6 and 1.8 < max(gains) < 2.0
    lengths = {len(a.SpeedConfig(factors=(0.5, 2.0)).draw(ones, RATE, rng)) for _ in range(30)}
    assert lengths == {500, 2000}
    shifts = [int((a.ShiftConfig().draw(ones, RATE, rng) == 0).sum()) for _ in range(200)]
    assert 60 < max(shifts) <= 80
    same = a.WhiteNoiseConfig(min_db=-50, max_db=-50).draw(ones, RATE, rng)  # the peer refuses equal levels
    assert np.std(same) == pytest.approx(10**-2.5, rel=0.1)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"speed": {"p": 1.5}}, r"`augment\.speed\.p` must be between 0 and 1, but is 1\.5"),
        ({"speed": {"factors": []}}, r"`augment\.speed\.factors` must be one factor or more"),
        ({"speed": {"factors": [0]}}, r"`augment\.speed\.factors` must be between 0\.1 and 10"),
        ({"gain": {"min_db": 5, "max_db": 1}}, r"`augment\.gain\.min_db` must be at most max_db \(1\), but is 5\.0"),
        ({"shift": {"min_ms": 6}}, r"`augment\.shift\.min_ms` must be at most max_ms \(5\)"),
        ({"white_noise": {"max_db": -99}}, r"`augment\.white_noise\.min_db` must be at most max_db \(-99\)"),
        ({"noise": {}}, r"`augment\.noise` is not a setting of AugmentConfig\. Did you mean `augment\.white_noise`"),
    ],
)
def test_impossible_settings_are_refused(tree, message):
    with pytest.raises(ConfigError, match=message):
        decode(a.AugmentConfig, tree, "augment")
