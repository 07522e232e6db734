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
    environment = {k: v for k, v in os.environ.items() if k not in {"LOCAL_RANK", "RANK", "WORLD_SIZE"}}
    environment["OMP_NUM_THREADS"] = "1"
    command = [*start, str(tmp_path / "script.py"), str(tmp_path / "settings.json")]
    subprocess.run(command, check=True, timeout=150, env=environment, capture_output=True)
    two = numbers(folder)
    assert len(two) == len(one) == 12 and "valid/loss" in two[-1]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=2e-4, abs=1e-5)
