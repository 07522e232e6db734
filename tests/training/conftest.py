"""A tiny run: sounds of three pitches, a small net, seconds of training."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from anemone.config import decode
from anemone.testing import SMALL_NET
from anemone.training.experiment import ExperimentConfig

LABELS = ("yes", "no", "stop")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """A folder with train.jsonl, valid.jsonl and test.jsonl."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for name, number in (("train", 24), ("valid", 8), ("test", 6)):
        lines = []
        for i in range(number):
            time = np.arange(int(rng.uniform(0.15, 0.3) * 16000)) / 16000
            audio = 0.3 * np.sin(2 * np.pi * (300 + 400 * (i % 3)) * time) + 0.05 * rng.standard_normal(len(time))
            soundfile.write(folder / f"{name}{i}.wav", audio.astype("float32"), 16000)
            line = {"audio_filepath": f"{name}{i}.wav", "duration": len(time) / 16000, "label": LABELS[i % 3]}
            lines.append(json.dumps(line))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def settings(recordings: Path, folder: Path, **changes):
    """The tree of a tiny run; changes by dotted name, with __ for the dots."""
    tree = {
        "task": {"kind": "classification"},
        "model": SMALL_NET,
        "features": {"kind": "log_mel", "num_mels": 32, "spec_augment": {}},
        "data": {"kind": "speech"}
        | {name: [str(recordings / f"{name}.jsonl")] for name in ("train", "valid", "test")}
        | {"plan": {"batch_size": 4}},
        "optim": {"kind": "adamw", "lr": 0.003},
        "schedule": {"kind": "cosine", "warmup_steps": 3},
        "trainer": {"max_steps": 12, "log_every": 5, "ema_decay": 0.9},
        "checkpoint": {"save_every": 4},
        "run": {"folder": str(folder), "progress": "none"},
    }
    for name, value in changes.items():
        node = tree
        *path, last = name.split("__")
        for part in path:
            node = node[part]
        node[last] = value
    return tree


@pytest.fixture
def tree(recordings, tmp_path):
    """Makes the tree of a tiny run."""
    return lambda **changes: settings(recordings, tmp_path / "run", **changes)


@pytest.fixture
def experiment(tree):
    """Makes the config of a tiny run."""
    return lambda **changes: decode(ExperimentConfig, tree(**changes))
