"""A run goes on from its checkpoint as if it had never stopped: bit by bit on the same mesh, and on any other from the
same bits, with every row of the data once."""

import json
import os
import shutil

import pytest
import torch

from anemone.config import decode
from anemone.testing import run_ranks
from anemone.training import module
from anemone.training.engine import Engine
from anemone.training.experiment import ExperimentConfig, train
from anemone.training.resume import Saver, read_checkpoint

STEPS, SAVED, MICRO_BATCHES, ROWS = 8, 4, 8, 2
EPOCH = 6  # steps, so that a run that goes on crosses the border of an epoch

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
QUICK = ("one process", "dp_shard tp", "pp", "cp")
"""Meshes of the quick suite, each of which goes on from the one before; the others are slow."""


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A text of just over so many rows as an epoch has."""
    path = tmp_path_factory.mktemp("text") / "train.txt"
    g = torch.Generator().manual_seed(0)
    letters = torch.randint(97, 113, ((EPOCH * MICRO_BATCHES * ROWS + 2) * 32 + 1,), generator=g)
    path.write_text("".join(map(chr, letters.tolist())))
    return path


def settings(text, folder, mesh, **changes):
    shape = {"d_model": 32, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "d_head": 8, "d_ff": 48}
    return {
        "task": {"kind": "language_modelling", "tokenizer": {"kind": "bytes"}},
        "model": {"kind": "llama", "size": "custom", "rope_theta": 100.0, **shape},
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
        "parallel": MESHES[mesh][1],
        "checkpoint": {"save_every": SAVED, "keep": 9, **changes},
        "run": {"folder": str(folder), "progress": "none"},
    }


def sit(rank, world, trees):
    """Trains one run after the other; returns the loss and the rows of each step, and saves what was loaded again."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(number) for name, number in place.items()})
    os.environ.update({"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"})
    steps, go_on, seen = Engine.step, module.TrainingModule._go_on, []

    def step(self, micro_batches):
        number, result = self.steps, steps(self, micro_batches)
        seen[-1].append((number, result.loss, [row for batch in micro_batches for row in batch.rows.tolist()]))
        return result

    def loaded(self, saved):
        go_on(self, saved)
        Saver(self.saver.folder.parent / "loaded", self.saver.group).save(self.engine.steps, self.state())

    Engine.step, module.TrainingModule._go_on = step, loaded
    for tree in trees:
        seen.append([])
        assert train(decode(ExperimentConfig, tree)).finished
    return seen


def run(mesh, trees):
    """Per run, the loss of each step and its rows, over all ranks, each once."""
    world, _ = MESHES[mesh]
    of_ranks = run_ranks(world, sit, world, trees)
    runs = []
    for sittings in zip(*of_ranks, strict=True):
        steps = {}
        for sitting in sittings:
            for number, loss, rows in sitting:
                steps.setdefault(number, (loss, set()))[1].update(rows)
        runs.append(steps)
    return runs


def stopped(folder, name, at=SAVED):
    """A copy of a run as it was when it had saved step ``at``."""
    copy = folder.with_name(f"{folder.name} on {name}")
    shutil.copytree(folder, copy)
    for path in (copy / "checkpoints").iterdir():
        if path.name != f"step_{at}":
            shutil.rmtree(path)
    return copy


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


def check_rows(steps):
    """Every row once an epoch, and as many as a step has."""
    assert sorted(steps) == list(range(STEPS))
    for epoch in (range(EPOCH), range(EPOCH, STEPS)):
        rows = [row for number in epoch for row in steps[number][1]]
        assert len(rows) == len(set(rows)) == len(epoch) * MICRO_BATCHES * ROWS


def check(text, folder, mesh, before=None):
    """Trains on a mesh straight, goes on on it, and goes on from the run of another mesh."""
    straight = folder / mesh
    (whole,) = run(mesh, [settings(text, straight, mesh)])
    check_rows(whole)
    again = stopped(straight, mesh)
    trees = [settings(text, again, mesh)]
    if before:
        other = stopped(before[0], mesh)
        trees.append(settings(text, other, mesh))
    runs = run(mesh, trees)
    assert runs[0] == {number: step for number, step in whole.items() if number >= SAVED}
    assert_same(state(again, STEPS), state(straight, STEPS))
    assert (again / "metrics.csv").read_bytes() == (straight / "metrics.csv").read_bytes()
    if before:
        assert_same(state(other, SAVED, "loaded"), state(before[0], SAVED))
        check_rows(before[1] | runs[1])
        for number, (loss, rows) in runs[1].items():
            assert loss == pytest.approx(before[1][number][0], abs=2e-6) and rows == before[1][number][1]
        tensors, expected = state(other, STEPS)[0], state(before[0], STEPS)[0]
        for name in (name for name in expected if name.startswith("model/")):
            torch.testing.assert_close(tensors[name], expected[name], rtol=1e-4, atol=1e-4)
    return straight, whole


def test_a_run_goes_on_exactly_on_the_same_mesh_and_on_another(text, tmp_path):
    before = None
    for mesh in QUICK:
        before = check(text, tmp_path, mesh, before)
    assert json.loads((before[0] / "results.json").read_text())["steps"] == STEPS


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_goes_on_exactly_over_the_grid_of_meshes(text, tmp_path):
    before = None
    for mesh in MESHES:
        before = check(text, tmp_path, mesh, before)
