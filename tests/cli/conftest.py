"""A command line run in this process, and things it can be run on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile

from anemone import tasks
from anemone.cli import main
from anemone.testing import speech, tiny


class Ran(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def anemone(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ran]:
    """Runs `anemone WORDS...` in an empty folder and returns status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Ran:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
        return Ran(status, *capsys.readouterr())

    return run


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    tasks.save(tiny("classification"), path := tmp_path / "words.anemone")
    return path


@pytest.fixture
def recogniser(tmp_path: Path) -> Path:
    tasks.save(tiny("recognition"), path := tmp_path / "letters.anemone")
    return path


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.wav" for name in ("yes", "no", "stop")]
    for seed, path in enumerate(paths):
        soundfile.write(path, speech(0.4 + 0.2 * seed, seed=seed), 16_000)
    return paths


@pytest.fixture
def manifest(recordings: list[Path], tmp_path: Path) -> Path:
    rows = [{"audio_filepath": p.name, "duration": soundfile.info(p).duration, "label": p.stem} for p in recordings]
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def experiment(manifest: Path, tmp_path: Path) -> Path:
    """A YAML file of a user: two steps over three recordings."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"""
defaults:
  - /task: classification
  - /model: quartznet_tiny
  - /features: log_mel_64
  - /optim: adamw
  - /schedule: constant
  - _self_
data: {{kind: speech, train: ["{manifest}"], valid: ["{manifest}"]}}
trainer: {{max_steps: 2, accelerator: cpu}}
"""
    )
    return path
