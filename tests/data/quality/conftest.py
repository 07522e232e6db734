"""A folder of recordings, each with one fault, and their manifest."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from anemone.data.columns import opened
from anemone.testing import speech

RATE = 16_000
FAULTS = {  # file -> the rules that it breaks, beside the texts'
    "good.wav": set(),
    "good.flac": set(),
    "missing.wav": {"missing-file"},
    "empty.wav": {"empty-audio"},
    "no_samples.wav": {"empty-audio"},
    "noise.wav": {"undecodable"},
    "cut.wav": {"truncated"},
    "cut.flac": {"undecodable"},
    "boast.wav": {"truncated"},
    "nan.wav": {"not-finite"},
    "short.wav": {"shorter-than-declared"},
    "long.wav": {"longer-than-declared"},
    "slow.wav": {"other-rate"},
    "stereo.wav": {"channels"},
    "clipped.wav": {"clipped"},
    "silent.wav": {"silent"},
    "quiet.wav": {"quiet"},
    "dc.wav": {"dc-offset"},
    "copy.flac": {"duplicate-audio"},
    "louder.wav": {"near-duplicate-audio"},
}


def wave(seed: int, seconds: float = 1.0) -> np.ndarray:
    """Noise whose loudness goes up and down in its own way; peak 0.5."""
    draw = np.random.default_rng(seed)
    steps = int(seconds * 40)
    audio = draw.normal(size=int(seconds * RATE)) * np.repeat(draw.uniform(0.05, 1, steps), RATE // 40)
    return (0.5 * audio / np.abs(audio).max()).astype(np.float32)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    waves = {name: wave(seed) for seed, name in enumerate(FAULTS)}
    waves["short.wav"], waves["long.wav"] = wave(50, 0.5), wave(51, 1.5)
    waves["stereo.wav"] = np.stack([wave(52), wave(53)], axis=1)
    waves["clipped.wav"] = np.clip(20 * wave(54), -1, 1)
    waves["silent.wav"], waves["quiet.wav"] = 1e-3 * wave(55), 3e-2 * wave(56)
    waves["dc.wav"] = wave(57) + 0.1
    waves["copy.flac"] = waves["good.wav"]
    waves["louder.wav"] = 0.6 * waves["good.flac"] + 1e-4 * wave(58)
    waves["no_samples.wav"] = np.zeros(0)
    for name, audio in waves.items():
        soundfile.write(folder / name, (32_767 * audio).astype(np.int16), RATE)  # as integers, alike in all formats
    nan = np.where(np.arange(RATE) == 99, np.nan, wave(60))
    soundfile.write(folder / "nan.wav", nan, RATE, subtype="FLOAT")
    soundfile.write(folder / "slow.wav", wave(59)[: RATE // 2], RATE // 2)
    (folder / "missing.wav").unlink()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "noise.wav").write_bytes(bytes(range(256)) * 40)
    for name in ("cut.wav", "cut.flac"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    data = bytearray((folder / "boast.wav").read_bytes())
    data[4:8], data[40:44] = struct.pack("<I", 4_000_000_000), struct.pack("<I", 3_999_999_900)
    (folder / "boast.wav").write_bytes(data)
    rows = [{"audio_filepath": name, "duration": 1.0, "text": f"row number {i}"} for i, name in enumerate(FAULTS)]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def faulty(folder: Path):
    return opened([folder / "m.jsonl"])


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of speech."""
    path = tmp_path_factory.mktemp("spoken") / "speech.wav"
    soundfile.write(path, speech(2.0), RATE)
    return path
