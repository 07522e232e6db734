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

# Trains in forked processes, as many for each line it reads as that says: a start takes a tenth of a second. Saves are
# slowed down.
SERVER = """
import json, os, sys, time, traceback
import torch
import anemone.checkpoint.atomic as atomic
import anemone.checkpoint.sharded as sharded
import anemone.training.launch
from anemone.config import decode
from anemone.testing import free_port
from anemone.training.experiment import ExperimentConfig, train

torch.set_num_threads(1)
flush = atomic.fsync

def slow_fsync(path):
    time.sleep(0.01)
    flush(path)

def run(rank, world, port, tree):
    atomic.fsync = sharded.fsync = slow_fsync
    if world > 1:  # as torchrun would
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
        os.environ.update({"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1"})
    try:
        train(decode(ExperimentConfig, tree))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

for line in sys.stdin:
    world, tree = json.loads(line)
    port = free_port()
    pids = []
    for rank in range(world):
        if (pid := os.fork()) == 0:
            run(rank, world, port, tree)
        pids.append(pid)
    print("!", *pids, file=sys.stderr, flush=True)
    codes = {pid: code for pid, code in (os.wait() for _ in pids)}
    print("!", *(os.waitstatus_to_exitcode(codes[pid]) for pid in pids), file=sys.stderr, flush=True)
"""


@pytest.fixture
def start():
    """Starts training processes; gives their numbers, and a function that waits for their exit codes."""
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    server = subprocess.Popen(command, text=True, start_new_session=True, **pipes)

    def numbers():
        said = []
        while line := server.stderr.readline():
            if line.startswith("!"):
                return [int(number) for number in line[1:].split()]
            said.append(line)
        raise AssertionError("".join(said))

    def start(tree, world=1):
        server.stdin.write(json.dumps([world, tree]) + "\n")
        server.stdin.flush()
        return numbers(), numbers

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


def kill(pids):
    for pid in pids:
        with suppress(ProcessLookupError):  # it was faster
            os.kill(pid, signal.SIGKILL)


def assert_ended_alike(folder, straight, steps):
    """Compares two finished runs to the last bit."""
    (tensors, numbers), (tensors2, numbers2) = state(straight, steps), state(folder, steps)
    assert tensors.keys() == tensors2.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], tensors2[name])] == []
    assert numbers == numbers2
    assert any("running_mean" in name for name in tensors) and any("exp_avg" in name for name in tensors)
    for name in ("metrics.csv", "results.json"):
        assert (folder / name).read_bytes() == (straight / name).read_bytes()


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
    assert wait() == [0]
    killed, folder = tree(**changes), tmp_path / "run"
    kills = in_save = 0
    while True:
        pids, wait = start(killed)
        if kills < 12:
            if kills == 0:
                time.sleep(moments.uniform(0, 0.3))  # before the first step
            else:
                in_save += wait_for_a_moment(folder / "checkpoints", moments, at_save=kills % 2 == 1)
            kill(pids)
        if (codes := wait()) == [0]:
            break
        assert codes == [-signal.SIGKILL]
        kills += 1
    assert kills >= 5 and in_save >= 2
    assert_ended_alike(folder, tmp_path / "straight", steps)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step_27", "step_30"]


def test_two_processes_killed_in_the_midst_of_asynchronous_saves_end_like_ones_that_were_not(start, tree, tmp_path):
    """One process is killed first, at any moment of a save or between two; the other soon after."""
    steps, moments = 24, random.Random(5)
    changes = {
        "trainer__max_steps": steps,
        "trainer__batches_per_step": 2,
        "trainer__eval_every": 1000,
        "checkpoint__save_every": 3,
        "checkpoint__asynchronous": True,
        "parallel": {"dp_shard": 2},
        "data__plan": {"batch_size": 5},
    }
    _, wait = start(tree(run__folder=str(tmp_path / "straight"), **changes), 2)
    assert wait() == [0, 0]
    killed, folder = tree(**changes), tmp_path / "run"
    kills = in_save = 0
    while True:
        pids, wait = start(killed, 2)
        if kills < 5:
            in_save += wait_for_a_save(folder / "checkpoints")
            time.sleep(moments.uniform(0, 0.08))
            moments.shuffle(pids)
            kill(pids[:1])
            time.sleep(moments.uniform(0, 0.05))
            kill(pids)
        codes = wait()
        if codes == [0, 0]:
            break
        assert -signal.SIGKILL in codes
        kills += 1
    assert kills >= 3 and in_save >= 3
    assert_ended_alike(folder, tmp_path / "straight", steps)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step_21", "step_24"]


def wait_for_a_save(folder):
    """Waits until a folder is being filled; tells whether it is."""
    before, deadline = set(folder.glob("step_*.tmp")), time.monotonic() + 60
    while time.monotonic() < deadline:
        if drafts := set(folder.glob("step_*.tmp")) - before:
            return bool(drafts)
        before &= set(folder.glob("step_*.tmp"))
        time.sleep(0.001)
    return False
