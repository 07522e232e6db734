"""Two processes, however they are started, give the curve of one on the same global batches."""

import csv
import json
import os
import subprocess
import sys

import pytest

from anemone.config import decode
from anemone.training.experiment import ExperimentConfig, train

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
