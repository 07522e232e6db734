"""Recordings: formats, pieces, channels, rates, and what is said of broken files."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from anemone.data.audio import Recordings, load_audio, waveform
from anemone.errors import DataError

RATE = 16_000
FORMATS = {
    "wav": ("WAV", "PCM_16", RATE, 0.0),
    "float": ("WAV", "FLOAT", RATE, 0.0),
    "flac": ("FLAC", "PCM_16", RATE, 0.0),
    "ogg": ("OGG", "VORBIS", RATE, 1e-6),
    "opus": ("OGG", "OPUS", RATE, 4e-3),  # a jump in Opus below 48 kHz is never exact
    "opus48": ("OGG", "OPUS", 48_000, 1e-6),
    "mp3": ("MP3", "MPEG_LAYER_III", RATE, 1e-6),
    "mp3_44": ("MP3", "MPEG_LAYER_III", 44_100, 1e-5),
}


def write(path: Path, audio: np.ndarray, kind: str) -> Path:
    format, subtype, rate, _ = FORMATS[kind]
    audio = audio if rate == RATE else soxr.resample(audio, RATE, rate)
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    with soundfile.SoundFile(path, "w", rate, channels, subtype, format=format) as file:
        for start in range(0, len(audio), rate):  # libsndfile 1.2.2 crashes when it is given minutes of Vorbis at once
            file.write(audio[start : start + rate])
    return path


@pytest.fixture
def long(x, monkeypatch) -> np.ndarray:
    """13 seconds: three whole blocks, if blocks are of 4 seconds, and a bit."""
    monkeypatch.setattr("anemone.data.audio.BLOCK", 4)
    return np.concatenate([x * gain for gain in np.random.default_rng(0).uniform(0.3, 1.0, 13)]).astype(np.float32)


@pytest.mark.parametrize("kind", FORMATS)
def test_pieces_equal_the_whole_with_a_cache_and_without(kind, long, tmp_path):
    path = write(tmp_path / f"a.{kind}", long, kind)
    whole = load_audio(path)
    assert whole.dtype == np.float32 and len(whole) == len(long)
    plain, kept = Recordings(RATE), Recordings(RATE, cache_mb=64)
    # inside a block, over two, three, up to the end, from the start
    for offset, duration in [(1.234, 0.5), (3.9, 0.3), (3.5, 5.0), (12.5, 0.5), (0.0, 0.7), (5.0, 1.0)]:
        piece = plain.piece(path, offset, duration)
        start = round(offset * RATE)
        expected = whole[start : start + round(duration * RATE)]
        assert len(piece) == len(expected)
        assert np.abs(piece - expected).max() <= FORMATS[kind][3]
        cached = kept.piece(path, offset, duration)
        assert np.abs(cached - expected).max() <= FORMATS[kind][3]
        assert np.array_equal(cached, kept.piece(path, offset, duration))
        assert np.array_equal(piece, load_audio(path, offset=offset, duration=duration))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_decoded_signal_is_the_one_encoded(kind, x, tmp_path):
    lossy = kind not in {"wav", "float", "flac"}
    audio = load_audio(write(tmp_path / f"a.{kind}", x, kind))
    assert np.abs(audio - x).max() < (0.1 if lossy else 2**-15)
    assert np.corrcoef(audio, x)[0, 1] > (0.98 if lossy else 0.9999)


def test_a_cache_with_room_for_one_block_gives_the_same(long, tmp_path):
    path = write(tmp_path / "a.opus", long, "opus")
    small, large = Recordings(RATE, cache_mb=0.3), Recordings(RATE, cache_mb=64)
    for offset in (1.0, 6.0, 2.0, 3.8, 9.0):
        assert np.array_equal(small.piece(path, offset, 0.5), large.piece(path, offset, 0.5))
    assert sum(block.nbytes for block in small._blocks.values()) <= 0.3 * 2**20
    assert len(small._blocks) == 1 and len(large._blocks) == 3


def test_a_cached_piece_is_read_once(x, tmp_path):
    path = write(tmp_path / "a.wav", x, "wav")
    recordings = Recordings(RATE, cache_mb=1)
    first = recordings.piece(path, 0.1, 0.2)
    path.unlink()
    assert np.array_equal(recordings.piece(path, 0.1, 0.2), first)


def test_without_a_duration_a_piece_goes_to_the_end(x, tmp_path):
    path = write(tmp_path / "a.wav", x, "wav")
    for recordings in (Recordings(RATE), Recordings(RATE, cache_mb=1)):
        assert len(recordings.piece(path, 0.25)) == 0.75 * len(x)


def test_a_block_that_ends_where_the_recording_ends(long, tmp_path):
    path = write(tmp_path / "a.wav", long[: 12 * RATE], "wav")
    for cache_mb in (0, 8):
        assert len(Recordings(RATE, cache_mb=cache_mb).piece(path, 11.0)) == RATE
        assert len(Recordings(RATE, cache_mb=cache_mb).piece(path, 3.0, 9.0)) == 9 * RATE


def test_channels_are_averaged_or_chosen(x, tmp_path):
    path = write(tmp_path / "a.wav", np.stack([x, np.zeros_like(x)], axis=1), "float")
    assert np.allclose(load_audio(path), x / 2)
    assert np.array_equal(load_audio(path, channel=0), x)
    assert not load_audio(path, channel=1).any()
    with pytest.raises(DataError, match=r"a\.wav` has 2 channel\(s\), so there is no channel 2"):
        load_audio(path, channel=2)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_keeps_a_tone(rate, tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(40 * rate) / rate).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", tone, rate, subtype="FLOAT")
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(40 * RATE) / RATE)
    audio = load_audio(tmp_path / "a.wav")
    assert len(audio) == len(expected)
    assert np.abs(audio - expected)[2000:-2000].max() < 1e-3
    over_the_edge_of_a_block = load_audio(tmp_path / "a.wav", offset=29.0, duration=2.0)
    assert np.abs(over_the_edge_of_a_block - expected[29 * RATE : 31 * RATE]).max() < 1e-3


def broken(folder: Path, x: np.ndarray) -> dict[str, tuple[Path, str]]:
    """Files that cannot be used, and what must be said of each."""
    noise = np.random.default_rng(0).bytes(4000)
    whole = write(folder / "whole.flac", np.tile(x, 4), "flac").read_bytes()
    texts = {
        "missing.wav": (None, r"must be an audio file, but does not exist"),
        "nothing.wav": (b"", r"must be an audio file, but is empty"),
        "noise.wav": (noise, r"cannot be decoded: .*[Ff]ormat not recognised"),
        "text.mp3": (b"not audio " * 100, r"cannot be decoded|holds no audio"),
        "short.flac": (whole[: len(whole) // 2], r"cannot be decoded|holds \d\.\d\d s"),
        "garbled.flac": (whole[:200] + noise + whole[4200:], r"cannot be decoded|holds \d\.\d\d s"),
    }
    for name, (content, _) in texts.items():
        if content is not None:
            (folder / name).write_bytes(content)
    soundfile.write(folder / "zero.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(folder / "nan.wav", np.full(4 * RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(folder / "long.wav", x, RATE)
    (folder / "folder.wav").mkdir()
    causes = {name: cause for name, (_, cause) in texts.items()}
    causes |= {
        "zero.wav": r"holds no audio from second 0 on",
        "nan.wav": r"holds samples that are not finite",
        "long.wav": r"holds 1\.00 s from second 0 on, 4 s were asked for",
        "folder.wav": r"is a folder",
    }
    return {name: (folder / name, cause) for name, cause in causes.items()}


def test_a_broken_file_is_named_with_its_cause(x, tmp_path):
    for name, (path, cause) in broken(tmp_path, x).items():
        for cache_mb in (0, 1):
            with pytest.raises(DataError, match=rf"{name}.*({cause})"):
                Recordings(RATE, cache_mb=cache_mb).piece(path, 0.0, 4.0)


def test_a_header_that_promises_too_much_is_harmless(x, tmp_path):
    """The number of samples in a FLAC header, 36 bits, says 68 milliards: 256 GiB."""
    path = write(tmp_path / "a.flac", x, "flac")
    content = bytearray(path.read_bytes())
    assert int.from_bytes(content[22:26]) == len(x)
    content[21] |= 0x0F
    path.write_bytes(content)
    assert soundfile.info(path).frames > 2**35
    try:
        assert len(load_audio(path)) <= len(x)
    except DataError as error:
        assert "a.flac" in str(error)
    assert len(load_audio(path, duration=0.2)) == 3200


@pytest.mark.parametrize("rate", [10, 2_000_000])
def test_an_impossible_rate_is_refused(rate, x, tmp_path):
    soundfile.write(tmp_path / "a.wav", x, rate)
    with pytest.raises(DataError, match=rf"a\.wav` must have 1000 to 1000000 samples per second, but has {rate}"):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3"])
def test_damage_anywhere_gives_audio_or_a_data_error(kind, x, tmp_path):
    whole = write(tmp_path / f"a.{kind}", x, kind).read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for i in range(40):
        damaged = np.frombuffer(whole, np.uint8)[: len(whole) if i % 2 else rng.integers(len(whole))].copy()
        places = rng.integers(min(len(damaged), 150 if i % 4 else len(damaged)) or 1, size=3 * bool(len(damaged)))
        damaged[places] = rng.integers(256, size=len(places))
        (tmp_path / f"b{i}.{kind}").write_bytes(damaged.tobytes())
        for recordings in (Recordings(RATE), Recordings(RATE, cache_mb=1)):
            try:
                outcomes.add(type(recordings.piece(tmp_path / f"b{i}.{kind}", 0.25, 0.5)))
            except DataError as error:
                assert f"b{i}.{kind}" in str(error)
                outcomes.add(DataError)
    assert DataError in outcomes <= {np.ndarray, DataError}


def test_an_offset_beyond_the_end_is_said(x, tmp_path):
    path = write(tmp_path / "a.wav", x, "wav")
    with pytest.raises(DataError, match=r"a\.wav` holds no audio from second 1\.5 on"):
        load_audio(path, offset=1.5)


def test_a_rounded_duration_is_forgiven(x, tmp_path):
    path = write(tmp_path / "a.wav", x, "wav")
    assert len(load_audio(path, duration=1.05)) == len(x)


def test_waveform_takes_paths_arrays_and_tensors(x, tmp_path):
    path = write(tmp_path / "a.wav", x, "float")
    pcm = np.round(x * 32768).astype(np.int16)
    stereo = np.stack([x, x])
    for source in (path, str(path), x, torch.tensor(x), (x, RATE), (torch.tensor(x), RATE), x.astype(np.float64)):
        assert np.array_equal(waveform(source, RATE), x)
    for source in (pcm, torch.tensor(pcm), (pcm.astype(np.int32) << 16, RATE), stereo, stereo.T, x[None]):
        assert np.allclose(waveform(source, RATE), x, atol=2**-16)
    assert np.allclose(waveform(np.uint8([0, 128, 255]), RATE), [-1, 0, 127 / 128])
    assert len(waveform((x, 2 * RATE), RATE)) == len(x) // 2


def test_waveform_takes_tensors_of_any_float_with_and_without_gradients(x):
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        tensor = torch.tensor(x, dtype=dtype)
        assert np.array_equal(waveform(tensor, RATE), tensor.float().numpy())
        assert np.array_equal(waveform(tensor.requires_grad_(), RATE), waveform(tensor.detach(), RATE))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros(0), r"shape \(0,\)"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.array(["a"]), r"audio must be a path, samples, or a pair"),
        (np.array([1.0, np.nan]), "must be finite"),
        (np.array([1.0, -1e300]), r"must lie in \[-1, 1\], but reaches 1e\+300\. .* give it as an integer array"),
        (np.full(9, 20_000, np.float32), r"must lie in \[-1, 1\], but reaches 20000\."),
        ([np.ones(9), RATE], r"is a list that is no such array: .* A pair is a tuple, `\(samples, rate\)`\."),
        ([torch.ones(9), RATE], r"is a list that is no such array: .* A pair is a tuple, `\(samples, rate\)`\."),
        (3.0, r"audio must be a path, samples, or a pair"),
        ((np.ones(9), 0), r"the rate of audio must be 1000 to 1000000 samples per second, but is 0\."),
        ((np.ones(9), -8000), r"the rate of audio must be 1000 to 1000000 .* but is -8000\."),
        ((np.ones(9), float("nan")), r"the rate of audio must be 1000 to 1000000 .* but is nan\."),
        ((np.ones(9), "16k"), r"the rate of audio must be 1000 to 1000000 .* but is '16k'\."),
    ],
)
def test_what_is_not_audio_is_refused(source, message):
    with pytest.raises(DataError, match=message):
        waveform(source, RATE)
