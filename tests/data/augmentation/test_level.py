"""Levels: equal to golden arrays, and to what the standards say."""

import numpy as np
import pytest

from anemone.data.augmentation.level import gain, loudness, rms_db


@pytest.mark.parametrize("db", [-6, 10])
def test_gain_equals_the_golden_array(db, x, golden):
    assert np.array_equal(gain(x, db), golden[f"gain_{db}"])


def test_gains_stay_in_their_range(step):
    ones = np.ones(10, np.float32)
    gains = [step(ones, "gain", copy=k, min_db=-6, max_db=6).audio[0] for k in range(200)]
    assert 0.5 < min(gains) < 0.6 and 1.8 < max(gains) < 2.0


def tone(rate: int, seconds: float, db: float = 0.0) -> np.ndarray:
    return (10 ** (db / 20) * np.sin(2 * np.pi * 997 * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def test_loudness_is_that_of_the_standard():
    """A full-scale sine of 997 Hz has -3.01 LUFS (BS.1770-4, annex 1); the gates leave out what is silent or soft."""
    assert loudness(tone(48_000, 3), 48_000) == pytest.approx(-3.01, abs=0.02)
    for rate in (8_000, 16_000, 44_100):  # bands narrower than the standard's bend the shelf
        assert loudness(tone(rate, 3), rate) == pytest.approx(-3.01, abs=0.25)
    # EBU Tech 3341, case 3: the soft parts, 13 and more below the loud one, do not count
    soft_loud_soft = np.concatenate([tone(48_000, 3, -36), tone(48_000, 18, -23), tone(48_000, 3, -36)])
    assert loudness(soft_loud_soft, 48_000) == pytest.approx(-26.0, abs=0.1)
    with_silence = np.concatenate([tone(48_000, 5, -20), np.zeros(480_000, np.float32)])
    assert loudness(with_silence, 48_000) == pytest.approx(-23.0, abs=0.2)
    assert loudness(np.zeros(16_000, np.float32), 16_000) == -np.inf


def test_loudness_equals_pyloudnorm_s(x, noise):
    """Values of pyloudnorm 0.2 for these recordings; it takes the filters to other rates by slightly other formulas."""
    assert loudness(x, 16_000) == pytest.approx(-27.68, abs=0.06)


@pytest.mark.parametrize("measure", ["lufs", "rms"])
def test_loudness_is_brought_to_what_was_drawn(measure, x, step):
    audio, drawn = step(x, "loudness", min_db=-30, max_db=-26, measure=measure)
    now = loudness(audio, 16_000) if measure == "lufs" else rms_db(audio)
    assert now == pytest.approx(drawn["db"], abs=0.01) and -30 <= drawn["db"] <= -26
    loud = step(x, "loudness", min_db=0, max_db=0, measure=measure).audio
    assert np.abs(loud).max() == pytest.approx(1, abs=1e-5)  # no further
    silent = np.zeros(100, np.float32)
    assert np.array_equal(step(silent, "loudness", measure=measure).audio, silent)


def test_clipping_cuts_peaks_alone(x, step):
    audio = step(x, "clip", min_db=6, max_db=6).audio
    most = np.abs(x).max() * 10 ** (-6 / 20)
    assert np.abs(audio).max() == pytest.approx(most)
    assert np.array_equal(audio[np.abs(x) < most], x[np.abs(x) < most])
    assert np.array_equal(step(x, "clip", min_db=0, max_db=0).audio, x)
