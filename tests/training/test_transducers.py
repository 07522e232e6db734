"""Transducers train over ranks as in one process, though the joint is run outside of the network's forward; so does a
FastConformer with CTC, also where its matrices are divided.
"""

import itertools

import pytest
import torch

from anemone.data.batch import Batch
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.tasks import rebuild
from anemone.testing import SMALL_NET, TINY, run_ranks, speech
from anemone.training.engine import Engine
from anemone.training.layout import lay_out
from anemone.training.precision import PRECISIONS

TEXTS = ["yes", "no", "stop", "a b"]


FASTCONFORMER = {"kind": "fastconformer", "size": "custom", "num_layers": 2, "d_model": 32, "num_heads": 2, "kernel": 5}
FASTCONFORMER |= {"norm": "layer", "dropout": 0.0, "dropout_input": 0.0, "dropout_attention": 0.0}
FASTCONFORMER |= {"subsampling": {"kind": "dw_striding", "factor": 4, "channels": 8}}  # a word has frames enough


def task_of(kind):
    if kind == "ctc":
        torch.manual_seed(0)
        features = {"kind": "log_mel", "num_mels": 32, "dither": 0.0}
        tree = {"task": {"kind": "recognition", **TINY["recognition"]}, "model": FASTCONFORMER, "features": features}
        return rebuild(tree)
    head = {"kind": kind, "d_joint": 16, "dropout": 0.0, "predictor": {"kind": "lstm", "d_model": 16, "dropout": 0.0}}
    torch.manual_seed(0)
    tree = {"kind": "recognition", **TINY["recognition"], "head": head}
    return rebuild({"task": tree, "model": SMALL_NET, "features": {"kind": "log_mel", "num_mels": 32, "dither": 0.0}})


def batch_of(task, rows):
    audio = [torch.from_numpy(speech(0.4, seed=row)) for row in rows]
    targets = [torch.tensor(task.encode(TEXTS[row])) for row in rows]
    return Batch(
        torch.nn.utils.rnn.pad_sequence(audio, batch_first=True),
        torch.tensor([len(each) for each in audio]),
        torch.nn.utils.rnn.pad_sequence(targets, batch_first=True),
        torch.tensor([len(each) for each in targets]),
        torch.tensor(rows),
    )


def losses(rank, kind, degrees):
    """Losses and gradient norms of three steps of four recordings; each rank has its share of them."""
    task = task_of(kind)
    for module in task.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    mesh = Mesh(ParallelConfig(**degrees)) if degrees else None
    parallel = lay_out(task, mesh, precision=PRECISIONS["32"], seed=0) if mesh else None
    engine = Engine(task, torch.optim.SGD(task.parameters(), lr=1e-2), lambda step: 1.0, parallel=parallel)
    for group in engine.optimizer.param_groups:
        group["base_lr"] = 1e-2
    mine = range(engine.data_rank, 4, engine.data_world)
    results = [engine.step([batch_of(task, [row]) for row in mine]) for _ in range(3)]
    with engine.evaluation():
        seen = task.evaluate(batch_of(task, [0, 1]))
    return [(result.loss, result.grad_norm) for result in results], float(seen["loss"])


DATA = [{"dp_replicate": 2}, {"dp_shard": 2}]


@pytest.mark.parametrize(
    ("kind", "degrees"),
    [*itertools.product(["transducer", "hybrid"], DATA), ("ctc", {"dp_shard": 2}), ("ctc", {"tp": 2})],
    ids=str,
)
def test_two_ranks_take_the_steps_of_one(kind, degrees):
    alone, seen = losses(0, kind, {})
    assert alone[2][0] < alone[0][0]
    for found, measured in run_ranks(2, losses, kind, degrees):
        assert torch.tensor(found).flatten().tolist() == pytest.approx(torch.tensor(alone).flatten().tolist(), rel=1e-4)
        assert measured == pytest.approx(seen, rel=1e-4)
