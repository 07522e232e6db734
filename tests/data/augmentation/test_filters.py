"""Filters: convolution by blocks is convolution, edges lie where they are set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemone.data.augmentation.filters import butterworth, convolve

RATE = 16_000


@given(st.integers(1, 30_000), st.integers(1, 3_000))
def test_convolution_by_blocks_is_convolution(samples, taps):
    rng = np.random.default_rng([samples, taps])
    audio, kernel = rng.standard_normal(samples).astype(np.float32), rng.standard_normal(taps).astype(np.float32)
    size = samples + taps - 1
    wanted = np.fft.irfft(np.fft.rfft(audio.astype(float), 2 * size) * np.fft.rfft(kernel.astype(float), 2 * size))
    ours = convolve(audio, kernel)
    assert ours.dtype == np.float32 and ours.shape == (size,)
    assert np.abs(ours - wanted[:size]).max() < 2e-5 * np.sqrt(min(samples, taps)) + 1e-5


@pytest.mark.parametrize("order", [1, 4, 8])
@pytest.mark.parametrize(("low", "high"), [(300, None), (None, 3400), (300, 3400)])
def test_a_butterworth_filter_loses_3_db_at_its_edges_and_6_more_an_octave_and_order(low, high, order):
    kernel = butterworth(RATE, order, low=low, high=high).astype(float)
    at = lambda hz: 20 * np.log10(abs(np.sum(kernel * np.exp(-2j * np.pi * hz / RATE * np.arange(len(kernel))))))  # noqa: E731
    if low and high and order == 1:
        return  # its slopes overlap
    for edge in filter(None, (low, high)):
        assert at(edge) == pytest.approx(-3.01, abs=0.06)
    assert at(1010) == pytest.approx(0, abs=0.9 if order == 1 else 0.02)
    if low and order < 8:
        assert at(low / 4) - at(low / 2) == pytest.approx(-6.02 * order, abs=1.0)
    # the whole is causal and has died out
    assert np.abs(kernel[-len(kernel) // 8 :]).max() < 1e-5 * np.abs(kernel).max() + 1e-7


def test_kernels_equal_scipy_s():
    """First values of scipy 1.17's sosfilt of an impulse: butter(4, 300, "high") then butter(4, 3400, "low")."""
    kernel = butterworth(RATE, 4, low=300, high=3400)
    assert kernel[:4] == pytest.approx(SCIPY, abs=1e-6)


SCIPY = (0.0483466, 0.2068486, 0.3105144, 0.1087954)


@pytest.mark.parametrize(
    ("name", "settings", "kept", "lost"),
    [
        ("low_pass", {"min_hz": 1000, "max_hz": 1200}, 300, 4000),
        ("high_pass", {"min_hz": 300, "max_hz": 400}, 2000, 60),
        ("band_pass", {}, 1000, 7500),
    ],
)
def test_steps_keep_their_band_and_lose_the_rest(name, settings, kept, lost, step, noise):
    audio, drawn = step(noise, name, **settings)
    assert audio.shape == noise.shape
    before, after = (np.abs(np.fft.rfft(signal[:16_000])) for signal in (noise, audio))
    power = lambda lines, hz: np.sum(lines[int(hz * 0.9) : int(hz * 1.1)] ** 2)  # noqa: E731
    assert power(after, kept) == pytest.approx(power(before, kept), rel=0.1)
    assert power(after, lost) < 1e-2 * power(before, lost)
    assert all(20 <= hz <= 4000 for hz in drawn.values())


def test_a_low_pass_above_the_band_changes_nothing(step, x):
    assert step(x, "low_pass", min_hz=9000, max_hz=9000).audio is x
    assert np.isfinite(step(x, "high_pass", min_hz=9000, max_hz=9000).audio).all()
