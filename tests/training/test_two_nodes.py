"""Two nodes, each a network of its own on this machine: one dies, comes back, and training goes on."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from anemone.checkpoint.atomic import standing
from anemone.training.resume import checkpoints

NODES = ("anemone-a", "anemone-b")
ADDRESS = "10.213.77.{}"
STEPS, EVERY = 120, 10
UNSHARED = (
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # else torch 2.13 never tells a node that comes back where the others are
)


@pytest.fixture
def nodes():
    """The names of two network namespaces with a veth pair between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and `ip`")
    with ExitStack() as stack:
        for node in NODES:
            subprocess.run(["ip", "netns", "del", node], capture_output=True)
            made = subprocess.run(["ip", "netns", "add", node], capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"this machine allows no network namespaces: {made.stderr.strip()}")
            stack.callback(subprocess.run, ["ip", "netns", "del", node])
        ends = ("cable-a", "cable-b")
        ip("link", "add", ends[0], "netns", NODES[0], "type", "veth", "peer", "name", ends[1], "netns", NODES[1])
        for number, (node, end) in enumerate(zip(NODES, ends, strict=True), start=1):
            ip("-n", node, "addr", "add", f"{ADDRESS.format(number)}/24", "dev", end)
            ip("-n", node, "link", "set", end, "up")
            ip("-n", node, "link", "set", "lo", "up")
        yield dict(zip(NODES, ends, strict=True))


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def start(node, cable, folder):
    """Starts torchrun on a node; what it says goes into a file beside the run."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": cable, "OMP_NUM_THREADS": "1", UNSHARED: "1"}
    number = NODES.index(node) + 1  # said here, as both nodes have the same host name
    rendezvous = [
        "--rdzv-backend=c10d",
        "--rdzv-id=two",
        f"--rdzv-endpoint={ADDRESS.format(1)}:29555",
        f"--rdzv-conf=is_host={int(number == 1)}",
        f"--local-addr={ADDRESS.format(number)}",
    ]
    settings = [
        f"run.folder={folder}",
        "run.progress=none",
        "parallel.dp_shard=2",
        f"trainer.max_steps={STEPS}",
        "trainer.max_epochs=null",
        "trainer.log_every=1",
        "trainer.eval_every=1000",
        "data.valid=[]",
        f"checkpoint.save_every={EVERY}",
    ]
    command = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=5", *rendezvous, "-m", "anemone", "train"]
    command = ["ip", "netns", "exec", node, sys.executable, "-m", "torch.distributed.run", *command, "llama_tiny"]
    with (folder.parent / f"{node}.log").open("ab") as log:
        return subprocess.Popen([*command, *settings], env=environment, stdout=subprocess.DEVNULL, stderr=log)


def wait(ready, processes, folder, seconds=200):
    began = time.monotonic()
    while not ready():
        for process in processes:
            said = [path.read_text()[-2000:] for path in folder.parent.glob("*.log")]
            assert process.poll() in (None, 0), said
        assert time.monotonic() - began < seconds, said
        time.sleep(0.05)


def logged(folder: Path):
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.timeout(295)
def test_a_node_that_dies_comes_back_and_training_goes_on_from_the_last_checkpoint(nodes, tmp_path):
    folder, saved = tmp_path / "run", tmp_path / "run" / "checkpoints"
    with ExitStack() as stack:
        running = {}
        for node, cable in nodes.items():
            running[node] = start(node, cable, folder)
            stack.callback(end, running, node)
        wait(lambda: len(checkpoints(saved)) >= 2, running.values(), folder)
        kill(NODES[1])
        running[NODES[1]].wait()
        last = max(checkpoints(saved))
        assert last < STEPS
        standing(saved / f"step_{last}")
        running[NODES[1]] = start(NODES[1], nodes[NODES[1]], folder)
        wait(lambda: (folder / "results.json").exists(), running.values(), folder)
        assert [process.wait(60) for process in running.values()] == [0, 0]
    said = (folder / "log.txt").read_text("utf-8")
    assert f"step {last}" in said
    assert logged(folder) == list(range(1, STEPS + 1))  # each step once: rows after the last checkpoint were dropped


def kill(node):
    """Ends everything that runs on a node at once, workers and their agent."""
    for pid in subprocess.run(["ip", "netns", "pids", node], capture_output=True, text=True).stdout.split():
        os.kill(int(pid), signal.SIGKILL)


def end(running, node):
    kill(node)
    running[node].wait()
