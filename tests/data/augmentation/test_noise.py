"""What is added has the level that was asked for, and comes from where it should."""

import numpy as np
import pytest
import soundfile

from anemone.data.augmentation import Recipe
from anemone.data.augmentation.level import rms_db
from anemone.data.augmentation.noise import noise_gain, pink, white_noise
from anemone.errors import DataError

RATE = 16_000


def test_white_noise_has_the_golden_level(x, golden):
    noise = white_noise(x, -60, np.random.default_rng(3)) - x
    assert noise.std() == pytest.approx(1e-3, rel=0.03)
    assert (golden["white_noise_-60"] - x).std() == pytest.approx(1e-3, rel=0.03)
    assert abs(noise.mean()) < 5e-5


def test_white_noise_takes_equal_limits(step):
    same = step(np.ones(1000, np.float32), "white_noise", min_db=-50, max_db=-50)  # the peer refuses equal levels
    assert np.std(same.audio) == pytest.approx(10**-2.5, rel=0.1)
    assert same.drawn == {"db": -50}


@pytest.mark.parametrize("name", ["white_noise", "pink_noise"])
def test_levels_above_speech_are_ratios(name, x, step):
    audio = step(x, name, min_db=-10, max_db=-10, above="speech").audio
    assert rms_db(x) - rms_db(audio - x) == pytest.approx(10, abs=0.1)
    audio = step(x, name, min_db=-40, max_db=-40).audio
    assert rms_db(audio - x) == pytest.approx(-40, abs=0.1)


def test_pink_noise_is_as_strong_in_each_octave():
    lines = np.abs(np.fft.rfft(pink(2**18, np.random.default_rng(0)))) ** 2
    octaves = [10 * np.log10(lines[2**k : 2 ** (k + 1)].sum()) for k in range(9, 17)]
    assert np.ptp(octaves) < 0.7
    assert np.mean(pink(12_345, np.random.default_rng(1)) ** 2) == pytest.approx(1, abs=1e-3)
    assert len(pink(1, np.random.default_rng(0))) == 1


@pytest.mark.parametrize("snr", [0, 10])
def test_noise_is_mixed_as_in_the_golden_arrays(snr, x, golden):
    """To the rounding of float32."""
    mixed = x + golden["noise"] * noise_gain(x, golden["noise"], snr)
    assert np.abs(mixed - golden[f"noise_given_snr{snr}"]).max() < 2e-7


@pytest.fixture
def noises(tmp_path, manifest):
    """A long and a short recording of noise, at 8 and 16 kHz."""
    rng = np.random.default_rng(5)
    soundfile.write(tmp_path / "long.wav", rng.uniform(-0.5, 0.5, 24_000).astype(np.float32), 8000, "FLOAT")
    soundfile.write(tmp_path / "short.wav", rng.uniform(-0.1, 0.1, 3_000).astype(np.float32), RATE, "FLOAT")
    rows = [{"audio_filepath": "long.wav", "duration": 3.0, "text": ""}, {"audio_filepath": "short.wav"}]
    return lambda keep: str(manifest([rows[i] for i in keep], f"noise{''.join(map(str, keep))}.jsonl"))


def test_recorded_noise_has_the_ratio_that_was_drawn(x, step, noises):
    names = set()
    for k in range(30):
        audio, drawn = step(x, "noise", copy=k, manifest=noises([0, 1]), min_snr_db=-5, max_snr_db=15)
        names.add(drawn["noise"])
        assert audio.dtype == np.float32 and audio.shape == x.shape and -5 <= drawn["snr_db"] <= 15
        tolerance = 0.01 if drawn["noise"] == "long" else 0.2  # a loop may end amid a round
        assert rms_db(x) - rms_db(audio - x) == pytest.approx(drawn["snr_db"], abs=tolerance)
    assert names == {"long", "short"}


def test_pieces_of_long_noise_begin_anywhere(x, step, noises):
    starts = [step(x, "noise", copy=k, manifest=noises([0])).drawn["start"] for k in range(100)]
    assert 0 <= min(starts) < 0.2 and 1.8 < max(starts) <= 2.0


def test_short_noise_is_looped_or_placed(x, step, noises):
    looped = step(x, "noise", manifest=noises([1])).audio - x
    assert np.allclose(looped[:3000], looped[3000:6000], atol=1e-6) and looped[-100:].any()
    placed, drawn = step(x, "noise", manifest=noises([1]), shorter="place")
    at = round(drawn["at"] * RATE)
    assert np.array_equal(np.flatnonzero((placed - x) != 0)[[0, -1]] // 10, np.array([at, at + 2999]) // 10)


def test_noise_is_no_louder_than_its_greatest_gain(x, step, noises):
    soft = step(x, "noise", manifest=noises([0]), min_snr_db=-60, max_snr_db=-60, max_gain_db=-20).audio
    assert rms_db(soft - x) == pytest.approx(20 * np.log10(0.5 / 3**0.5) - 20, abs=0.4)


def test_silence_stays_silence(step, noises):
    silent = np.zeros(1000, np.float32)
    for name in ("noise", "babble"):
        assert not step(silent, name, manifest=noises([0, 1])).audio.any()


@pytest.fixture
def voices(tmp_path, manifest, x):
    """Five utterances of three speakers; the first two are one speaker's."""
    rows = []
    for i, speaker in enumerate("aabbc"):
        soundfile.write(tmp_path / f"{i}.wav", np.roll(x, 1000 * i)[: 6000 + 2000 * i], RATE, "FLOAT")
        rows.append({"audio_filepath": f"{i}.wav", "duration": 0.3, "text": "a", "speaker": speaker, "id": f"u{i}"})
    return str(manifest(rows, "voices.jsonl"))


def test_babble_is_other_speakers_at_a_ratio(x, step, voices):
    heard = set()
    for k in range(40):
        audio, drawn = step(x, "babble", copy=k, id="u1", manifest=voices, min_voices=2, max_voices=4)
        heard |= set(drawn["voices"])
        assert 2 <= len(drawn["voices"]) <= 4
        assert rms_db(x) - rms_db(audio - x) == pytest.approx(drawn["snr_db"], abs=0.01)
    assert heard == {"u2", "u3", "u4"}


def test_babble_takes_all_but_itself_where_speakers_are_unknown(x, step, noises):
    heard = {step(x, "babble", copy=k, id="long", manifest=noises([0, 1])).drawn["voices"][0] for k in range(20)}
    assert heard == {"short"}
    with pytest.raises(DataError, match=r"must hold other speakers than that of `long`"):
        step(x, "babble", id="long", manifest=noises([0]))


def test_the_digest_knows_what_a_manifest_holds_and_not_where_it_lies(tmp_path, noises):
    def digest(path: str) -> str:
        return Recipe.parse([{"noise": {"manifest": path}}]).digest

    first = digest(noises([0]))
    (tmp_path / "moved.jsonl").write_bytes((tmp_path / "noise0.jsonl").read_bytes())
    assert digest(str(tmp_path / "moved.jsonl")) == first != digest(noises([0, 1]))


@pytest.mark.parametrize(
    ("text", "message"), [("", "must hold recordings"), ("{\n", "bad.jsonl:1"), ('{"a": 1}\n', "audio_filepath")]
)
def test_bad_manifests_are_refused(text, message, tmp_path, step, x):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        Recipe.parse([{"noise": {"manifest": str(tmp_path / "bad.jsonl")}}]).opened(RATE)
    with pytest.raises(DataError, match=message):
        step(x, "noise", manifest=str(tmp_path / "bad.jsonl"))
    with pytest.raises(DataError, match=r"bad\.json` must be a manifest that exists\. Did you mean `.*bad\.jsonl`"):
        step(x, "noise", manifest=str(tmp_path / "bad.json"))
