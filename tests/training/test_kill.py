"""A run that is killed again and again, also in the middle of a save, ends bit by bit like one that is not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch

from anemone.training.resume import read_checkpoint

# Trains in forked processes, one for each line it reads: a start takes a tenth of a second. Saves are slowed down.
SERVER = """
import json, os, sys, time, traceback
import torch
import anemone.checkpoint.atomic as atomic
import anemone.training.launch
from anemone.config import decode
from anemone.training.experiment import ExperimentConfig, train

torch.set_num_threads(1)
flush = atomic.fsync

def slow_fsync(path):
    time.sleep(0.01)
    flush(path)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        atomic.fsync = slow_fsync
        try:
            train(decode(ExperimentConfig, json.loads(line)))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(pid, file=sys.stderr, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=sys.stderr, flush=True)
"""


@pytest.fixture
def start():
    """Starts a training process; gives its number, and a function that waits for its exit code."""
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    server = subprocess.Popen(command, text=True, start_new_session=True, **pipes)

    def number():
        said = []
        while line := server.stderr.readline():
            if line.strip().lstrip("-").isdigit():
                return int(line)
            said.append(line)
        raise AssertionError("".join(said))

    def start(tree):
        server.stdin.write(json.dumps(tree) + "\n")
        server.stdin.flush()
        return number(), number

    yield start
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    server.stdin.close()
    server.stderr.close()


def state(folder, step):
    """All that the last checkpoint holds, but for the clock."""
    saved = read_checkpoint(folder / "checkpoints" / f"step_{step}")
    saved.numbers["ledger"].pop("minutes")
    return dict(saved.tensors), saved.numbers


def wait_for_a_moment(folder, moments, *, at_save):
    """Waits for a save to be under way, or to be done and then a moment; returns whether one is under way."""
    before, deadline = newest(folder), time.monotonic() + 60
    while time.monotonic() < deadline:
        if at_save and any(folder.glob("*.tmp/index.json")):
            return True
        if not at_save and newest(folder) > before:
            time.sleep(moments.uniform(0, 0.1))
            break
        if newest(folder) >= before + 6:
            break
        time.sleep(0.001)
    return False


def newest(folder):
    return max((int(p.name.split("_")[1]) for p in folder.glob("step_*") if p.name[-1].isdigit()), default=0)


def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(start, tree, tmp_path):
    steps, moments = 30, random.Random(4)
    changes = {
        "trainer__max_steps": steps,
        "trainer__eval_every": 7,
        "checkpoint__save_every": 3,
        "precision": "16-mixed",
        "data__plan": {"batch_size": 5},
    }
    _, wait = start(tree(run__folder=str(tmp_path / "straight"), **changes))
    assert wait() == 0
    killed, folder = tree(**changes), tmp_path / "run"
    kills = in_save = 0
    while True:
        pid, wait = start(killed)
        if kills < 12:
            if kills == 0:
                time.sleep(moments.uniform(0, 0.3))  # before the first step
            else:
                in_save += wait_for_a_moment(folder / "checkpoints", moments, at_save=kills % 2 == 1)
            with suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        if (code := wait()) == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 5 and in_save >= 2
    (tensors, numbers), (tensors2, numbers2) = state(tmp_path / "straight", steps), state(folder, steps)
    assert tensors.keys() == tensors2.keys() and all(torch.equal(tensors[name], tensors2[name]) for name in tensors)
    assert numbers == numbers2
    assert any("running_mean" in name for name in tensors) and any("exp_avg" in name for name in tensors)
    for name in ("metrics.csv", "results.json"):
        assert (folder / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step_27", "step_30"]
