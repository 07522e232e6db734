"""A run goes on from its checkpoint as if it had never stopped: bit by bit on the same mesh, and on any other from the
same bits, with every row of the data once."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from anemone.config import decode
from anemone.testing import free_port, run_ranks
from anemone.training import module
from anemone.training.engine import Engine
from anemone.training.experiment import ExperimentConfig, train
from anemone.training.resume import Saver, read_checkpoint

STEPS, SAVED, MICRO_BATCHES, ROWS = 8, 4, 8, 2
EPOCH = 6  # steps, so that a run that goes on crosses the border of an epoch; of speech, 3

# processes and degrees of each mesh
MESHES = {
    "one process": (1, {}),
    "dp_replicate": (2, {"dp_replicate": 2}),
    "dp_shard": (2, {"dp_shard": 2}),
    "zero1": (2, {"dp_shard": 2, "zero": 1}),
    "tp": (2, {"tp": 2}),
    "pp": (2, {"pp": 2}),
    "cp": (2, {"cp": 2}),
    "hsdp": (4, {"dp_replicate": 2, "dp_shard": 2}),
    "dp_shard tp": (4, {"dp_shard": 2, "tp": 2}),
    "pp interleaved": (2, {"pp": 2, "schedule": "interleaved_1f1b"}),
    "dp_shard pp": (4, {"dp_shard": 2, "pp": 2}),
    "cp tp": (4, {"cp": 2, "tp": 2}),
    "dp_replicate pp": (4, {"dp_replicate": 2, "pp": 2}),
    "dp_shard pp tp": (8, {"dp_shard": 2, "pp": 2, "tp": 2}),
}
MESHES["one process again"] = MESHES["one process"]
EXPERTS = {
    "one process": (1, {}),
    "ep": (2, {"dp_shard": 2, "ep": 2}),
    "ep tp": (4, {"dp_shard": 2, "ep": 2, "tp": 2}),
    "dp_shard": (2, {"dp_shard": 2}),
    "ep pp": (4, {"dp_shard": 2, "ep": 2, "pp": 2}),
}
"""Meshes of a mixture of experts."""
WORKERS = {
    "no workers": (1, {}, 0),
    "dp_shard, two workers each": (2, {"dp_shard": 2}, 2),
    "dp_replicate, one worker each": (2, {"dp_replicate": 2}, 1),
    "three workers": (1, {}, 3),
}
"""Meshes of a run on speech, and processes that read for each rank."""
QUICK = ("one process", "dp_shard tp", "pp")
"""Meshes of the quick suite, each of which goes on from the one before; the others are slow."""


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A text of just over so many rows as an epoch has."""
    path = tmp_path_factory.mktemp("text") / "train.txt"
    g = torch.Generator().manual_seed(0)
    letters = torch.randint(97, 113, ((EPOCH * MICRO_BATCHES * ROWS + 2) * 32 + 1,), generator=g)
    path.write_text("".join(map(chr, letters.tolist())))
    return path


class Case(NamedTuple):
    """A run on a mesh, and what its data come to."""

    world: int
    tree: Callable[..., dict[str, Any]]
    epoch: int
    rows: int


def on_text(text, layout, *, precision="32", **model):
    """A case of language modelling."""
    shape = {"d_model": 32, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "d_head": 8, "d_ff": 48}
    world, degrees = layout

    def tree(folder, *, asynchronous=False):
        return {
            "task": {"kind": "language_modelling", "tokenizer": {"kind": "bytes"}},
            "model": {"kind": "llama", "size": "custom", "rope_theta": 100.0, **shape, **model},
            "data": {"kind": "tokens", "train": [str(text)], "sequence_len": 32, "batch_size": ROWS},
            "optim": {"kind": "adamw", "lr": 0.003},
            "schedule": {"kind": "cosine", "warmup_steps": 2},
            "trainer": {
                "max_steps": STEPS,
                "log_every": 1,
                "clip_norm": 1.0,
                "ema_decay": 0.9,
                "batches_per_step": MICRO_BATCHES,
            },
            "precision": precision,
            "parallel": degrees,
            "checkpoint": {"save_every": SAVED, "keep": 9, "asynchronous": asynchronous},
            "run": {"folder": str(folder), "progress": "none"},
        }

    return Case(world, tree, EPOCH, MICRO_BATCHES * ROWS)


def on_speech(settings, layout):
    """A case of classification, of 24 utterances, 8 a step."""
    world, degrees, workers = layout

    def tree(folder, *, asynchronous=False):
        made = settings(run__folder=str(folder), parallel=degrees, data__num_workers=workers)
        made["trainer"] |= {"max_steps": STEPS, "batches_per_step": 2, "log_every": 1}
        made["checkpoint"] = {"save_every": SAVED, "keep": 9, "asynchronous": asynchronous}
        made["data"] |= {"valid": [], "test": []}
        return made

    return Case(world, tree, 3, 8)


def sit(rank, world, jobs):
    """Trains one run after the other; returns the loss and the rows of each step, and saves what was loaded again.

    Args:
        rank: of this process.
        world: processes.
        jobs: of each run its settings, the folder of another run to go on from, and a port to meet at.
    """
    multiprocessing.set_start_method("fork", force=True)  # as in a run that was started by hand
    multiprocessing.current_process()._config["daemon"] = False  # so it may start workers
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(number) for name, number in place.items()})
    os.environ.update({"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1"})
    steps, go_on, seen = Engine.step, module.TrainingModule._go_on, []

    def step(self, micro_batches):
        number, result = self.steps, steps(self, micro_batches)
        seen[-1].append((number, result.loss, [row for batch in micro_batches for row in batch.rows.tolist()]))
        return result

    def loaded(self, saved):
        go_on(self, saved)
        Saver(self.saver.folder.parent / "loaded", self.saver.group).save(self.engine.steps, self.state())

    Engine.step, module.TrainingModule._go_on = step, loaded
    for tree, source, port in jobs:
        os.environ["MASTER_PORT"] = str(port)
        seen.append([])
        if source and rank == 0:
            stopped(source, Path(tree["run"]["folder"]))
        assert train(decode(ExperimentConfig, tree)).finished
    return seen


def run(case, jobs):
    """Per run, the loss of each step and its rows, over all ranks, each once."""
    of_ranks = run_ranks(case.world, sit, case.world, [(*job, free_port()) for job in jobs], timeout=300)
    runs = []
    for sittings in zip(*of_ranks, strict=True):
        steps = {}
        for sitting in sittings:
            for number, loss, rows in sitting:
                steps.setdefault(number, (loss, set()))[1].update(rows)
        runs.append(steps)
    return runs


def stopped(folder, copy):
    """Makes a copy of a run as it was when it had been saved."""
    shutil.copytree(folder, copy)
    for path in (copy / "checkpoints").iterdir():
        if path.name != f"step_{SAVED}":
            shutil.rmtree(path)


def state(folder, step, where="checkpoints"):
    """Tensors and numbers of a checkpoint, but for the clock."""
    saved = read_checkpoint(folder / where / f"step_{step}")
    saved.numbers["ledger"].pop("minutes")
    return dict(saved.tensors), saved.numbers


def assert_same(found, expected):
    (tensors, numbers), (tensors2, numbers2) = found, expected
    tensors, tensors2 = ({n: t for n, t in some.items() if not n.startswith("random/")} for some in (tensors, tensors2))
    assert tensors.keys() == tensors2.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], tensors2[name])] == []
    assert numbers == numbers2


def check_rows(case, steps):
    """Every row once an epoch, and as many as a step has."""
    assert sorted(steps) == list(range(STEPS))
    for first in range(0, STEPS, case.epoch):
        epoch = range(first, min(first + case.epoch, STEPS))
        rows = [row for number in epoch for row in steps[number][1]]
        assert len(rows) == len(set(rows)) == len(epoch) * case.rows


def check(name, case, folder, before=None, *, band=2e-6):
    """Trains straight, goes on on the same mesh, and goes on from the run of another mesh."""
    straight, again, other = folder / name, folder / f"{name} again", folder / f"{name} from another"
    jobs = [(case.tree(straight), None), (case.tree(again, asynchronous=True), straight)]
    jobs += [(case.tree(other, asynchronous=True), before[0])] if before else []
    whole, *runs = run(case, jobs)
    check_rows(case, whole)
    assert runs[0] == {number: step for number, step in whole.items() if number >= SAVED}
    assert_same(state(again, STEPS), state(straight, STEPS))
    assert (again / "metrics.csv").read_bytes() == (straight / "metrics.csv").read_bytes()
    if before:
        assert_same(state(other, SAVED, "loaded"), state(before[0], SAVED))
        check_rows(case, before[1] | runs[1])
        for number, (loss, rows) in runs[1].items():
            assert loss == pytest.approx(before[1][number][0], abs=band) and rows == before[1][number][1]
        tensors, expected = state(other, STEPS)[0], state(before[0], STEPS)[0]
        for tensor in (name for name in expected if name.startswith("model/")):
            if tensors[tensor].is_floating_point():  # the others count forwards of a rank
                torch.testing.assert_close(tensors[tensor], expected[tensor], rtol=1e-4, atol=1e-4)
    return straight, whole


def test_a_run_goes_on_exactly_on_the_same_mesh_and_on_another(text, tmp_path):
    before = None
    for mesh in QUICK:
        before = check(mesh, on_text(text, MESHES[mesh]), tmp_path, before)
    assert json.loads((before[0] / "results.json").read_text())["steps"] == STEPS


@pytest.mark.parametrize("precision", ["fp8", "fp8-rowwise"])
def test_a_run_in_8_bits_goes_on_exactly(text, tmp_path, precision):
    check(precision, on_text(text, MESHES["one process"], precision=precision), tmp_path)


def test_a_run_on_speech_goes_on_exactly_with_other_ranks_and_workers(tree, tmp_path):
    before = None
    for name, layout in WORKERS.items():
        before = check(name, on_speech(tree, layout), tmp_path, before, band=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_goes_on_exactly_over_the_grid_of_meshes(text, tmp_path):
    before = None
    for mesh, layout in MESHES.items():
        before = check(mesh, on_text(text, layout), tmp_path, before)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_experts_go_on_exactly_on_other_meshes(text, tmp_path):
    before = None
    for mesh, layout in EXPERTS.items():
        case = on_text(text, layout, num_experts=4, num_experts_per_token=2)
        before = check(mesh, case, tmp_path, before)
