"""Processes, however they are started and whatever they share out, give the curve of one on the same global batches."""

import csv
import json
import os
import re
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from anemone import load
from anemone.checkpoint.archive import read_archive
from anemone.config import decode
from anemone.training.experiment import ExperimentConfig, train
from anemone.training.settings import experiment

SCRIPT = """
import json, sys
from anemone.config import decode
from anemone.training.experiment import ExperimentConfig, train

if __name__ == "__main__":
    train(decode(ExperimentConfig, json.loads(open(sys.argv[1]).read())))
"""


def numbers(folder):
    with (folder / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.fixture
def one(tree, tmp_path):
    """The table of one process that takes two micro-batches a step."""
    folder = tmp_path / "one"
    changes = {"run__folder": str(folder), "trainer__batches_per_step": 2, "trainer__log_every": 1}
    train(decode(ExperimentConfig, tree(**changes)))
    return numbers(folder)


def started(command):
    """Runs two processes of a run."""
    environment = {k: v for k, v in os.environ.items() if k not in {"LOCAL_RANK", "RANK", "WORLD_SIZE"}}
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.run(command, timeout=150, env=environment, capture_output=True, text=True)


def test_a_process_whose_share_of_a_set_is_useless_does_not_stop_the_other(tree, tmp_path, recordings):
    rows = [json.loads(line) for line in (recordings / "test.jsonl").read_text().splitlines()[:2]]
    rows = [row | {"audio_filepath": str(recordings / row["audio_filepath"])} for row in rows]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, [rows[0], rows[1] | {"label": "what"}])))
    changes = {"data__test": [str(tmp_path / "test.jsonl")], "data__eval_batch_size": 1, "trainer__max_steps": 2}
    two = tree(run__folder=str(tmp_path / "two"), trainer__devices=2, **changes)
    (tmp_path / "settings.json").write_text(json.dumps(two))
    (tmp_path / "script.py").write_text(SCRIPT)
    ran = started([sys.executable, str(tmp_path / "script.py"), str(tmp_path / "settings.json")])
    assert ran.returncode == 0, ran.stderr
    one = train(decode(ExperimentConfig, tree(trainer__batches_per_step=2, **changes)))
    metrics = json.loads((tmp_path / "two" / "results.json").read_text())["metrics"]
    assert metrics == pytest.approx(one.metrics, rel=1e-4)
    assert (metrics["test/utterances"], metrics["test/left_out"]) == (1, 1)


@pytest.mark.parametrize("starter", ["python script.py", "torchrun"])
def test_two_processes_give_the_curve_of_one(starter, one, tree, tmp_path):
    """A convolutional net with batch normalisation, under SpecAugment; loss, gradient norm and validation."""
    launcher = starter == "python script.py"
    folder = tmp_path / "two"
    devices = {"trainer__devices": 2} if launcher else {"trainer__batches_per_step": 2}
    (tmp_path / "settings.json").write_text(json.dumps(tree(run__folder=str(folder), trainer__log_every=1, **devices)))
    (tmp_path / "script.py").write_text(SCRIPT)
    start = [sys.executable]
    if not launcher:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*start, str(tmp_path / "script.py"), str(tmp_path / "settings.json")]
    started(command).check_returncode()
    two = numbers(folder)
    assert len(two) == len(one) == 12 and "valid/loss" in two[-1]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=2e-4, abs=1e-5)


TEXT = ["data.sequence_len=32", "data.batch_size=2", "data.eval_batch_size=48", "model.num_layers=4"]
TEXT += ["trainer.max_steps=4", "trainer.eval_every=2", "trainer.log_every=1", "trainer.ema_decay=0.9"]
TEXT += ["optim=adamw", "optim.lr=0.001", "trainer.batches_per_step=4", "checkpoint.save_every=2", "run.progress=none"]


def trained(folder, *settings, name="llama_tiny", more=TEXT):
    """Trains from the command line; returns the table and what was measured at the end."""
    words = [sys.executable, "-m", "anemone", "train", name, *more, f"run.folder={folder}", *settings]
    ran = started(words)
    assert ran.returncode == 0, ran.stderr
    return numbers(folder), json.loads((folder / "results.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The table of one process, what was measured at the end, and the archive."""
    folder = tmp_path_factory.mktemp("text") / "one"
    return *trained(folder), folder / "model.anemone"


@pytest.mark.parametrize("layout", ["tp=2", "pp=2 schedule=interleaved_1f1b"])
def test_a_text_is_learnt_over_any_layout_as_by_one_process(layout, text, tmp_path):
    settings = [f"parallel.{setting}" for setting in layout.split()]
    table, metrics = trained(tmp_path / "two", "trainer.devices=2", *settings)
    assert len(table) == len(text[0]) == 4
    for a, b in zip(text[0], table, strict=True):
        assert b == pytest.approx(a, rel=1e-4)
    assert metrics == pytest.approx(text[1], rel=1e-5)
    ours, theirs = (load(path).state_dict() for path in (tmp_path / "two" / "model.anemone", text[2]))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_one_process_trains_with_short_weights_and_recomputation(text, tmp_path):
    """Both lay the network out over a mesh of one."""
    table, _ = trained(tmp_path / "one", "precision=bf16-true", "parallel.recompute.kind=full")
    for a, b in zip(text[0], table, strict=True):
        assert b == pytest.approx(a, rel=0.02)


def test_speech_is_learnt_over_shards_as_by_one_process(one, tree, tmp_path):
    changes = {"trainer__devices": 2, "trainer__batches_per_step": 2, "trainer__log_every": 1}
    settings = tree(run__folder=str(tmp_path / "two"), **changes)
    settings["parallel"] = {"dp_shard": 2}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "script.py").write_text(SCRIPT)
    started([sys.executable, str(tmp_path / "script.py"), str(tmp_path / "settings.json")]).check_returncode()
    for a, b in zip(one, numbers(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=2e-4, abs=1e-5)
    assert size_on_card(tmp_path / "two") == size_on_card(tmp_path / "one")


def size_on_card(folder):
    return re.search(r"parameters \| ([\d,]+)", read_archive(folder / "model.anemone").card)[1]


def test_processes_that_cannot_meet_say_so_and_nothing_else(tmp_path, monkeypatch):
    """A network without memory is not moved on the way out, which would hide the reason."""
    settings = ["trainer.devices=2", "parallel.dp_shard=2", "trainer.max_steps=2", f"run.folder={tmp_path / 'run'}"]
    config = experiment("llama_tiny", [*settings, "run.progress=none"])
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        for name, value in (place | meeting).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(dist.DistNetworkError, match="failed to listen"):
            train(config)
