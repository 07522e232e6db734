"""Manifests and recordings made for a test."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16_000
Write = Callable[..., Path]


def speech() -> np.ndarray:
    """A second of recorded speech (S,) at 16 kHz."""
    with np.load(Path(__file__).parents[1] / "golden/parity/augment/values.npz") as values:
        return values["x"]


@pytest.fixture(scope="session")
def x() -> np.ndarray:
    return speech()


@pytest.fixture
def manifest(tmp_path: Path) -> Write:
    """Writes rows (dictionaries, or lines as they are) as a manifest below the test's folder."""

    def write(rows: list[dict | str | bytes], name: str = "manifest.jsonl") -> Path:
        lines = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
        path = tmp_path / name
        path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
        return path

    return write


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 37 pieces, 20 to 56 ms, of one recording; the target of row i is its number."""
    folder = tmp_path_factory.mktemp("pieces")
    soundfile.write(folder / "all.wav", np.tile(speech(), 3), RATE)
    rows = [
        {"audio_filepath": "all.wav", "offset": 0.05 * i, "duration": 0.02 + 0.001 * (i * 7 % 37), "text": str(i)}
        for i in range(37)
    ]
    (folder / "pieces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pieces.jsonl"
