"""Sound files that are broken or made to do harm: each is used, or refused with its cause, in little memory."""

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from anemone.data.audio import Recordings, load_audio
from anemone.data.loader import Loader, SpeechDataConfig
from anemone.data.manifest import Index
from anemone.data.plan import PlanConfig
from anemone.data.soundfiles import MOST
from anemone.errors import DataError

RATE = 16_000
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "float": ("WAV", "FLOAT"),
    "mulaw": ("AU", "ULAW"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def encoded(path: Path, audio: np.ndarray, kind: str, rate: int = RATE) -> bytes:
    form, subtype = KINDS[kind]
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    with soundfile.SoundFile(path, "w", rate, channels, subtype, format=form) as file:
        for start in range(0, len(audio), rate):  # libsndfile 1.2.2 crashes when it is given minutes of Vorbis at once
            file.write(audio[start : start + rate])
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(x, tmp_path_factory) -> dict[str, bytes]:
    """Two seconds of speech in each format."""
    folder = tmp_path_factory.mktemp("whole")
    return {kind: encoded(folder / kind, np.tile(x, 2), kind) for kind in KINDS}


def in_the_cache_and_not() -> tuple[Recordings, Recordings]:
    return Recordings(RATE), Recordings(RATE, cache_mb=1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=2000)
@given(data=st.data())
def test_a_file_that_was_cut_or_changed_anywhere_gives_sound_audio_or_an_error(kind, whole, tmp_path_factory, data):
    content = whole[kind]
    cut = data.draw(st.one_of(st.integers(0, 300), st.integers(0, len(content))))
    damaged = bytearray(content[:cut])
    places = st.integers(0, max(0, min(len(damaged), 400) - 1)) | st.integers(0, max(0, len(damaged) - 1))
    for place in data.draw(st.lists(places, max_size=4)):
        damaged[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    path.write_bytes(damaged)
    for recordings in in_the_cache_and_not():
        try:
            audio = recordings.piece(path, 0.25, 1.0)
        except DataError as error:
            assert path.name in str(error)
        else:
            assert audio.dtype == np.float32 and 0.89 * RATE - 1 <= len(audio) <= RATE
            assert np.isfinite(audio).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_says_how_much_is_left_of_what_was_asked_for(kind, whole, tmp_path):
    for share in (0.2, 0.5, 0.8):
        path = tmp_path / f"cut.{kind}"
        path.write_bytes(whole[kind][: int(share * len(whole[kind]))])
        with pytest.raises(DataError, match=r"cut\.\w+` (holds (no audio|\d\.\d\d s) from second 0|cannot be decoded)"):
            Recordings(RATE).piece(path, 0.0, 2.0)


# --- claims -----------------------------------------------------------------------------------------------------------


def wav(data: bytes, *, claimed: int, rate: int = RATE, channels: int = 1, bits: int = 16) -> bytes:
    """A wav whose header claims so many bytes of samples."""
    frame = channels * bits // 8
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, min(rate * frame, 2**32 - 1), frame, bits)
    head = b"RIFF" + struct.pack("<I", min(claimed + 36, 2**32 - 1)) + b"WAVE"
    return head + form + b"data" + struct.pack("<I", claimed) + data


def rf64(data: bytes, claimed: int) -> bytes:
    """A wav of 64 bits whose header claims so many bytes of samples."""
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, claimed + 72, claimed, claimed // 2, 0)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, RATE * 2, 2, 16)
    return (
        b"RF64" + struct.pack("<I", 2**32 - 1) + b"WAVE" + sizes + form + b"data" + struct.pack("<I", 2**32 - 1) + data
    )


def flac_of(content: bytes, frames: int) -> bytes:
    """A flac whose header claims so many samples (36 bits)."""
    changed = bytearray(content)
    changed[21] = (changed[21] & 0xF0) | frames >> 32
    changed[22:26] = (frames & 0xFFFFFFFF).to_bytes(4)
    return bytes(changed)


@pytest.fixture(scope="module")
def claims(x, whole) -> dict[str, bytes]:
    """Files of a second that claim gigabytes."""
    pcm = (x * 32767).astype("<i2").tobytes()
    return {
        "four_gb.wav": wav(pcm, claimed=2**32 - 1),
        "hours.wav": wav(pcm, claimed=2**31),
        "exa.rf64": rf64(pcm, 2**62),
        "hours.flac": flac_of(whole["flac"], 2**36 - 1),
    }


@pytest.mark.parametrize("cache_mb", [0, 8])
def test_a_header_that_claims_gigabytes_costs_none(claims, cache_mb, tmp_path):
    for name, content in claims.items():
        (tmp_path / name).write_bytes(content)
        tracemalloc.start()
        try:
            audio = Recordings(RATE, cache_mb=cache_mb).piece(tmp_path / name, 0.0, 0.9)
            assert len(audio) == 0.9 * RATE
            with pytest.raises(DataError, match=name):
                Recordings(RATE, cache_mb=cache_mb).piece(tmp_path / name, 0.0, 7200.0)
            with pytest.raises(DataError, match=name):
                Recordings(RATE, cache_mb=cache_mb).piece(tmp_path / name, 3600.0, 1.0)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < (7200 * RATE * 4 + 2**26 if name == "hours.flac" else 2**26), name


def bomb(path: Path, kind: str, seconds: int, rate: int, channels: int = 1) -> Path:
    """Silence that takes little room on disk and much in memory."""
    form, subtype = KINDS[kind]
    with soundfile.SoundFile(path, "w", rate, channels, subtype, format=form) as file:
        for _ in range(seconds):
            file.write(np.zeros((rate, channels), np.float32))
    return path


def peak_of(*lines: str) -> int:
    """Peak of resident bytes of a new Python that runs some lines, less that of importing."""
    code = [
        "import resource",
        "from anemone.data.audio import Recordings",
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss",
        *lines,
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


def test_silence_that_decodes_to_gigabytes_costs_what_was_asked_for(tmp_path):
    path = bomb(tmp_path / "bomb.flac", "flac", 60, 192_000, channels=8)
    assert path.stat().st_size < 2**18
    peak = peak_of(
        "for cache_mb in (0, 1):",
        f"    audio = Recordings(16_000, cache_mb=cache_mb).piece({str(path)!r}, 1.0, 4.0)",
        "    assert len(audio) == 64_000",
    )
    assert peak < 100 * 2**20  # all of it is 370 MiB


@pytest.mark.parametrize("kind", ["vorbis", "opus", "mp3"])
def test_of_a_long_silence_only_a_piece_is_decoded(kind, tmp_path):
    path = bomb(tmp_path / f"bomb.{kind}", kind, 60, 48_000)
    tracemalloc.start()
    assert len(Recordings(RATE).piece(path, 30.0, 1.0)) == RATE
    assert tracemalloc.get_traced_memory()[1] < 5 * 48_000 * 4
    tracemalloc.stop()


def test_more_is_not_read_at_once_than_fits(x, tmp_path, monkeypatch):
    encoded(tmp_path / "a.flac", np.tile(x, 3)[: 3 * RATE], "flac")
    monkeypatch.setattr("anemone.data.audio.MOST", 2 * RATE)
    monkeypatch.setattr("anemone.data.soundfiles.MOST", 2 * RATE)
    monkeypatch.setattr("anemone.data.audio.BLOCK", 1)
    for cache_mb in (0, 8):
        recordings = Recordings(RATE, cache_mb=cache_mb)
        assert len(recordings.piece(tmp_path / "a.flac", 0.5, 2.0)) == 2 * RATE
        assert len(recordings.piece(tmp_path / "a.flac", 2.0)) == RATE
        with pytest.raises(DataError, match=r"a\.flac` is longer than 2 s: read it piece by piece"):
            recordings.piece(tmp_path / "a.flac")
        with pytest.raises(DataError, match=r"a\.flac` must be read .* at most 2 s at a time"):
            recordings.piece(tmp_path / "a.flac", 0.0, 2.5)
    assert MOST * 4 <= 2**31


def test_a_thousand_channels_are_mixed_in_little_memory(tmp_path):
    path = tmp_path / "many.wav"
    frames = np.repeat(np.linspace(-0.5, 0.5, 4 * RATE, dtype=np.float32)[:, None], 1000, axis=1)
    soundfile.write(path, frames, RATE)
    tracemalloc.start()
    audio = load_audio(path, duration=4.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.abs(audio - frames[:, 0]).max() < 2**-14 and peak < frames.nbytes / 8
    assert np.abs(load_audio(path, channel=999) - frames[:, 0]).max() < 2**-14


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_audio_are_refused(value, x, tmp_path):
    spoilt = x.copy()
    spoilt[9_000] = value
    soundfile.write(tmp_path / "a.wav", spoilt, RATE, subtype="FLOAT")
    cause = r"reach 1e\+30: audio lies in \[-1, 1\]" if np.isfinite(value) else r"are not finite"
    for recordings in in_the_cache_and_not():
        with pytest.raises(DataError, match=rf"a\.wav` holds samples that {cause}"):
            recordings.piece(tmp_path / "a.wav", 0.0, 1.0)
        assert len(recordings.piece(tmp_path / "a.wav", 0.0, 0.5)) == RATE // 2


def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    names = {str(tmp_path / "pipe.wav"): "is no plain file", "/dev/zero": "is no plain file"}
    names |= {"nul\0.wav": "does not exist", "x" * 5000 + ".wav": "does not exist", "\ud800.wav": "does not exist"}
    (tmp_path / "samples.raw").write_bytes(bytes(range(256)) * 40)
    names[str(tmp_path / "samples.raw")] = "cannot be decoded"
    for name, cause in names.items():
        with pytest.raises(DataError, match=cause):
            Recordings(RATE).piece(name, 0.0, 1.0)


@pytest.mark.parametrize(
    ("offset", "duration"),
    [(-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0), (0.0, -1.0), (0.0, float("nan")), (1e18, 1.0)],
)
def test_an_impossible_place_is_refused(offset, duration, x, tmp_path):
    soundfile.write(tmp_path / "a.wav", x, RATE)
    with pytest.raises(DataError, match=r"a\.wav` must be read from second 0 or later, at most 33554 s at a time"):
        load_audio(tmp_path / "a.wav", offset=offset, duration=duration)


def test_a_flac_that_does_not_say_its_length_is_read(whole, tmp_path):
    (tmp_path / "stream.flac").write_bytes(flac_of(whole["flac"], 0))
    for recordings in in_the_cache_and_not():
        assert len(recordings.piece(tmp_path / "stream.flac")) == 2 * RATE
        assert len(recordings.piece(tmp_path / "stream.flac", 0.5)) == 1.5 * RATE
        assert len(recordings.piece(tmp_path / "stream.flac", 0.5, 1.5)) == 1.5 * RATE
        with pytest.raises(DataError, match=r"stream\.flac` holds 2\.00 s from second 0 on, 3 s were asked for"):
            recordings.piece(tmp_path / "stream.flac", 0.0, 3.0)


# --- through the loader -----------------------------------------------------------------------------------------------

HOSTILE = {
    "gone.wav": "does not exist",
    "empty.mp3": "is empty",
    "no_samples.wav": "holds no audio",
    "cut.flac": r"holds \d\.\d\d s|cannot be decoded",
    "short.opus": r"holds 2\.\d\d s from second 0 on, 9 s",
    "four_gb.wav": r"holds 1\.00 s from second 0 on, 9 s",
    "slow.wav": r"must have 1000 to 1000000 samples per second, but has 3",
    "nan.wav": "are not finite",
    "pipe.wav": "is no plain file",
    "page.mp3": "cannot be decoded|holds",
}


@pytest.mark.parametrize("workers", [0, 2])
def test_hostile_files_are_reported_once_with_row_path_and_cause_and_the_rest_is_read(
    workers, x, whole, claims, tmp_path, caplog
):
    soundfile.write(tmp_path / "good.wav", x, RATE)
    soundfile.write(tmp_path / "stereo.wav", np.stack([x, x], 1), 44_100)  # other channels and rate than the rest
    soundfile.write(tmp_path / "no_samples.wav", x[:0], RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    files = {"empty.mp3": b"", "cut.flac": whole["flac"][:9000], "short.opus": whole["opus"]}
    files |= {"four_gb.wav": claims["four_gb.wav"], "slow.wav": wav(b"\0" * 99, claimed=99, rate=3)}
    files |= {"page.mp3": b"<html>404</html>" * 99}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.wav")
    long = {"short.opus", "four_gb.wav"}
    names = ["good.wav", *HOSTILE, "stereo.wav"]
    rows = [
        {"audio_filepath": name, "duration": 9 if name in long else 2 if name == "cut.flac" else 0.36, "text": "1"}
        for name in names
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    index = Index.read([tmp_path / "m.jsonl"], target="text")
    config = SpeechDataConfig(plan=PlanConfig(batch_size=3), num_workers=workers)
    loader = Loader(index, config, lambda text: [int(text)], training=True)
    for _ in range(2):
        assert sorted(row for step in loader for b in step for row in b.rows.tolist()) == [0, len(names) - 1]
    causes = {problem.line: problem.cause for problem in loader.problems}
    assert len(loader.problems) == len(HOSTILE) == len(causes)
    for line, (name, cause) in enumerate(HOSTILE.items(), 2):
        with pytest.raises(DataError, match=rf"{name}.*({cause})"):
            raise DataError(causes[line])
        assert caplog.text.count(causes[line]) == 1
