"""Rooms: convolution as in golden arrays, echoes where geometry puts them, decay in the time that was asked for."""

import numpy as np
import pytest
import soundfile

from anemone.data.augmentation import rooms
from anemone.data.augmentation.level import rms_db
from anemone.data.augmentation.rooms import Shoebox, SimulatedRoomConfig, absorbed, decay_time, image_source, simulated
from anemone.errors import DataError

RATE = 16_000


@pytest.mark.parametrize(("aligned", "name"), [(False, "impulse"), (True, "impulse_shift")])
def test_convolution_equals_the_golden_array(aligned, name, x, golden):
    """To the rounding of FFTs in float32, at a peak of 1."""
    ours = rooms.levelled(rooms.reverberated(x, golden["rir"], aligned=aligned), x, "peak")
    assert np.abs(ours - golden[name]).max() < 2e-6


def test_a_recorded_room_keeps_time_and_level(x, step, tmp_path, manifest, golden):
    soundfile.write(tmp_path / "hall.wav", golden["rir"], RATE, "FLOAT")
    path = str(manifest([{"audio_filepath": "hall.wav"}]))
    audio, drawn = step(x, "room", manifest=path)
    assert drawn == {"room": "hall"} and audio.shape == x.shape
    assert rms_db(audio) == pytest.approx(rms_db(x), abs=1e-3)
    assert np.argmax(np.correlate(audio, x[2000:-2000], "valid")) == 2000  # the direct sound is where it was
    assert np.abs(step(x, "room", manifest=path, level="peak").audio).max() == pytest.approx(1)


def test_a_silent_response_is_refused(x, step, tmp_path, manifest):
    soundfile.write(tmp_path / "none.wav", np.zeros(100), RATE)
    with pytest.raises(DataError, match=r"impulse response `none` .* is silent"):
        step(x, "room", manifest=str(manifest([{"audio_filepath": "none.wav"}])))


ROOM = Shoebox(size=(6.0, 5.0, 3.0), source=(2.0, 2.5, 1.5), microphone=(4.0, 2.5, 1.5), rt60=0.3)


def test_echoes_come_when_and_as_strong_as_geometry_says():
    """Of a source 2 m away: the floor and ceiling, the side walls, the walls behind."""
    absorption = 0.5
    response = image_source(ROOM, RATE, absorption)
    assert response[0] == pytest.approx(1 / 2, rel=0.06)  # a band-limited impulse between two samples is lower
    for distance, images in [(np.hypot(2, 3), 2), (np.hypot(2, 5), 2), (6.0, 2)]:
        at = (distance - 2) / 343 * RATE
        near = response[round(at) - 4 : round(at) + 5]
        strength = np.sqrt(np.sum(near**2))  # of an impulse wherever it lies between samples
        assert strength == pytest.approx(images * np.sqrt(1 - absorption) / distance, rel=0.15)
        assert np.argmax(near) == pytest.approx(4, abs=1)
    quiet = slice(5, round((np.hypot(2, 3) - 2) / 343 * RATE) - 5)
    assert np.abs(response[quiet]).max() < 0.05  # nothing before the first echo


def test_sound_decays_in_the_time_that_was_asked_for():
    ratios = []
    for number in range(12):
        room, response = simulated(SimulatedRoomConfig(), RATE, number)
        ratios.append(decay_time(response, RATE) / room.rt60)
        assert 0.15 <= room.rt60 <= 0.7 and len(response) == pytest.approx(room.rt60 * RATE, abs=3)
        assert np.argmax(np.abs(response)) <= 1
    assert np.mean(ratios) == pytest.approx(1, abs=0.02) and np.ptp(ratios) < 0.15


def test_eyring_and_sabine():
    """Textbook values: 0.161 V / (A T), and 1 - exp of its negative."""
    sabine = 0.161 * 90 / (126 * 0.3)
    assert absorbed(ROOM, "sabine") == pytest.approx(sabine, rel=2e-3)
    assert absorbed(ROOM, "eyring") == pytest.approx(1 - np.exp(-sabine), rel=2e-3)
    decay = {name: decay_time(image_source(ROOM, RATE, absorbed(ROOM, name)), RATE) for name in ("eyring", "sabine")}
    assert decay["sabine"] < decay["eyring"] < 1.6 * 0.3


def test_decay_time_of_an_exponential():
    noise = np.random.default_rng(0).standard_normal(RATE)
    response = (noise * 10 ** (-3 * np.arange(RATE) / (0.4 * RATE))).astype(np.float32)
    assert decay_time(response, RATE) == pytest.approx(0.4, rel=0.05)


def test_a_simulated_room_is_drawn_out_of_so_many(x, step):
    drawn = [step(x, "simulated_room", copy=k, rooms=3) for k in range(20)]
    assert {d.drawn["number"] for d in drawn} == {0, 1, 2}
    assert len({d.audio.tobytes() for d in drawn}) == 3
    assert rms_db(drawn[0].audio) == pytest.approx(rms_db(x), abs=1e-3)
    assert set(drawn[0].drawn) == {"number", "size", "source", "microphone", "rt60"}
