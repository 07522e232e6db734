"""Codecs: the tables of G.711, and a round trip that keeps time, length and enough of the signal."""

import io
import sys

import numpy as np
import pytest
import soundfile

from anemone.data.audio import resample
from anemone.data.augmentation import Recipe
from anemone.data.augmentation.codecs import CODECS, a_law, mu_law, transcoded
from anemone.errors import ConfigError, DataError

RATE = 16_000


def by_libsndfile(audio: np.ndarray, subtype: str) -> np.ndarray:
    memory = io.BytesIO()
    soundfile.write(memory, audio, 8000, subtype, format="WAV")
    memory.seek(0)
    return soundfile.read(memory, dtype="float32")[0]


def test_mu_law_equals_libsndfile_s(x):
    assert np.array_equal(mu_law(x), by_libsndfile(x, "ULAW"))


def test_a_law_equals_the_table_of_g_711(x):
    """Where it decides: 32 values a step of 2, 2, 4, 8, ... 128 of 4096; libsndfile rounds to 2 of them before."""
    edges = np.unique(np.concatenate([np.arange(0, 64, 2)] + [np.arange(16, 32) * 2 ** (k + 2) for k in range(6)]))
    edges = edges[edges <= 4096]
    values = np.append((edges[1:] + edges[:-1]) / 2, (edges[-1] + 4096) / 2)
    audio = np.linspace(-0.9999, 0.9999, 50_001).astype(np.float32)
    wanted = np.sign(audio) * values[np.searchsorted(edges, np.abs(audio) * 4096, "right") - 1] / 4096
    difference = np.abs(a_law(audio) - wanted)
    assert (difference > 1e-6).mean() < 1e-3  # zero has a sign, and edges are rounded
    assert len(np.unique(a_law(audio))) == 256
    assert np.abs(a_law(x) - by_libsndfile(x, "ALAW")).max() < 0.01


def lag(before: np.ndarray, after: np.ndarray) -> int:
    size = 2 * len(before)
    like = np.fft.irfft(np.fft.rfft(after, size) * np.conj(np.fft.rfft(before, size)))
    at = int(np.argmax(like))
    return at if at < len(before) else at - size


EACH = ["mu_law", "a_law", "gsm", "mp3:16", "mp3:64", "opus:8", "opus:24", "amr_nb:12.2", "g722", "g723", "aac:32"]


@pytest.mark.parametrize("codec", EACH)
@pytest.mark.parametrize("rate", [8000, 16_000])
def test_a_codec_keeps_time_and_length_and_gives_the_same_again(codec, rate, x):
    audio = resample(x, RATE, rate)
    coded = transcoded(audio, rate, codec)
    assert coded.dtype == np.float32 and coded.shape == audio.shape
    assert abs(lag(audio, coded)) <= 1
    assert np.corrcoef(audio, coded)[0, 1] > (0.35 if codec.startswith("amr") else 0.8)  # AMR turns phases
    assert not np.array_equal(coded, audio)
    assert np.array_equal(coded, transcoded(audio, rate, codec))


def test_more_bits_are_nearer(x):
    for name, rates in (("opus", (6, 12, 32, 128)), ("mp3", (16, 32, 64)), ("aac", (16, 64))):
        errors = [np.mean((transcoded(x, RATE, f"{name}:{kbps}") - x) ** 2) for kbps in rates]
        assert errors == sorted(errors, reverse=True), name


def test_every_codec_is_tested():
    assert {codec.partition(":")[0] for codec in EACH} == set(CODECS)


def test_the_telephone_has_its_band(noise, step):
    audio, drawn = step(noise, "telephone", laws=["mu"])
    lines = np.abs(np.fft.rfft(audio[:16_000])) ** 2
    assert drawn == {"law": "mu"} and audio.shape == noise.shape
    inside = lines[500:3200].mean()
    assert lines[20:120].mean() < 0.02 * inside and lines[4200:].mean() < 1e-3 * inside
    assert {step(noise[:800], "telephone", copy=k).drawn["law"] for k in range(20)} == {"mu", "a"}


def test_codecs_are_drawn_from_the_list(x, step):
    drawn = {step(x[:1600], "codec", copy=k, codecs=["gsm", "opus:8"]).drawn["codec"] for k in range(20)}
    assert drawn == {"gsm", "opus:8"}


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        ("opuss:8", r"`recipe\[0\]\.codec\.codecs\[0\]` must be one of .*'opuss'.* Did you mean `opus`"),
        ("opus:800", "must be opus:KBPS with 6 to 256 kbit/s"),
        ("opus", "must be opus:KBPS"),
        ("mp3:x", "must be mp3:KBPS"),
        ("gsm:12", "must be gsm alone"),
    ],
)
def test_impossible_codecs_are_refused(codec, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.parse([{"codec": {"codecs": [codec]}}])


def test_without_pyav_the_extra_is_named(x, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"needs PyAV: pip install 'anemone\[codecs\]'"):
        transcoded(x, RATE, "g722")
