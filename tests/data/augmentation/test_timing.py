"""Time and pitch: equal to golden arrays where there are any, and to what a sine must become."""

import numpy as np
import pytest

from anemone.data.augmentation.timing import pitch, shift, speed, tempo

RATE = 16_000


def sine(hz: float, seconds: float = 2.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(RATE * seconds)) / RATE).astype(np.float32)


def strongest(audio: np.ndarray) -> float:
    """The frequency with the most energy, to 0.1 Hz."""
    size = RATE * 10
    return float(np.abs(np.fft.rfft(audio * np.hanning(len(audio)), size)).argmax()) * RATE / size


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_equals_the_golden_array_but_for_the_band_s_edge(factor, x, golden):
    """The golden array was resampled by FFT over the whole signal, ours by a filter: they part near 8 kHz alone."""
    ours, theirs = speed(x, RATE, factor), golden[f"speed_{factor}"]
    assert ours.shape == theirs.shape == (round(RATE * factor),)
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.003 * np.sqrt(np.mean(theirs**2))
    low = len(ours) // 2 * 0.85  # of the spectrum's lines, those below
    difference = np.abs(np.fft.rfft(ours - theirs))[: int(low * min(1, 1 / factor))]
    assert difference.max() < 2e-3 * np.abs(np.fft.rfft(theirs)).max()


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.1, 1.7])
def test_tempo_keeps_the_pitch_and_the_level_and_speed_does_not(factor):
    audio = sine(220)
    slow = tempo(audio, RATE, factor)
    assert len(slow) == round(len(audio) * factor) and slow.dtype == np.float32
    assert strongest(slow) == pytest.approx(220, abs=0.3)
    assert slow.std() == pytest.approx(audio.std(), rel=0.01)
    assert strongest(speed(audio, RATE, factor)) == pytest.approx(220 / factor, abs=0.3)


def test_tempo_of_speech_is_speech_at_another_pace(x):
    """The envelope of twice the length is the envelope stretched, and there and back is much like nothing."""

    def envelope(audio: np.ndarray, count: int) -> np.ndarray:
        return np.sqrt([np.mean(piece**2) for piece in np.array_split(audio, count)])

    stretched = tempo(x, RATE, 1.5)
    assert np.corrcoef(envelope(x, 40), envelope(stretched, 40))[0, 1] > 0.95
    assert np.abs(stretched).max() <= np.abs(x).max() + 1e-6
    assert tempo(x, RATE, 1.0) is x
    assert len(tempo(x[:300], RATE, 1.5)) == 450


@pytest.mark.parametrize("semitones", [-5, 3, 12])
def test_pitch_changes_the_pitch_alone(semitones):
    audio = sine(300)
    higher = pitch(audio, RATE, semitones)
    assert len(higher) == len(audio) and higher.dtype == np.float32
    assert strongest(higher) == pytest.approx(300 * 2 ** (semitones / 12), rel=0.002)


@pytest.mark.parametrize("ms", [100, -100])
def test_shift_equals_the_golden_array(ms, x, golden):
    assert np.array_equal(shift(x, ms * RATE // 1000), golden[f"shift_{ms}ms"])


def test_a_shift_beyond_the_end_changes_nothing(x):
    assert np.array_equal(shift(x[:10], 10), x[:10])
    assert np.array_equal(shift(x, 0), x)


def test_silence_stands_before_and_after_as_in_the_golden_array(x, golden, step):
    """0.1 s before and 0.2 s after."""
    padded = step(x, "silence", min_before=0.1, max_before=0.1, min_after=0.2, max_after=0.2).audio
    assert padded.dtype == np.float32 and np.array_equal(padded, golden["silence"].astype(np.float32))


def test_segments_are_pieces_of_the_length_and_place_that_were_drawn(x, step):
    for k in range(20):
        audio, drawn = step(x, "segment", copy=k, min_seconds=0.2, max_seconds=0.6)
        start = round(drawn["start"] * RATE)
        assert np.array_equal(audio, x[start : start + len(audio)]) and 3200 <= len(audio) <= 9600
    assert step(x, "segment", min_seconds=5, max_seconds=6).audio.shape == x.shape


def test_draws_stay_in_their_range(step):
    ones = np.ones(1000, np.float32)
    lengths = {len(step(ones, "speed", copy=k, factors=[0.5, 2.0]).audio) for k in range(30)}
    assert lengths == {500, 2000}
    shifts = [int((step(ones, "shift", copy=k).audio == 0).sum()) for k in range(200)]
    assert 60 < max(shifts) <= 80
