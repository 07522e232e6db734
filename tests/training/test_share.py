"""Steps over shards and stages: ranks without data take part, evaluation leaves no trace, all ranks see a fault."""

import math

import pytest
import torch
from torch import nn

from anemone.data.token_rows import TokenBatch
from anemone.errors import TrainingError
from anemone.losses import LossSum
from anemone.losses.token_cross_entropy import TokenCrossEntropyConfig
from anemone.models.text.llama import LlamaConfig
from anemone.parallel.apply import parallelize
from anemone.parallel.initial import initialize
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.testing import run_ranks
from anemone.training.engine import Engine
from anemone.training.evaluation import added
from anemone.training.optim import AdamWConfig

SMALL = LlamaConfig(size="custom", d_model=16, num_layers=4, num_heads=2, d_ff=32)


class Words(nn.Module):
    """What the engine asks of a task, over a very small Llama."""

    def __init__(self):
        super().__init__()
        with torch.device("meta"):
            self.network = SMALL.build(32)
        self.criterion = TokenCrossEntropyConfig().build()

    def inputs(self, batch):
        return batch.tokens, batch.positions, batch.segments

    def lost(self, output, batch):
        total, count = self.criterion(output, batch.targets)
        return LossSum(total * (math.nan if int(batch.rows[0]) == 99 else 1.0), count)

    def loss(self, batch):
        return self.lost(self.network(*self.inputs(batch)), batch)

    def measured(self, output, batch):
        total, count = self.lost(output, batch)
        return {"loss": total.double(), "count": count.double()}

    def evaluate(self, batch):
        return self.measured(self.network(*self.inputs(batch)), batch)

    def zero_states(self):
        return {"loss": torch.zeros((), dtype=torch.double), "count": torch.zeros((), dtype=torch.double)}


def batch(seed, row=0, size=2):
    tokens = torch.randint(32, (size, 9), generator=torch.Generator().manual_seed(seed))
    positions = torch.arange(8).expand(size, 8)
    return TokenBatch(tokens[:, :-1], tokens[:, 1:], positions, None, torch.arange(row, row + size))


def engine(layout, **settings):
    task, parallel = Words(), None
    draw = task.network.draw
    if layout is not None:
        short = torch.bfloat16 if settings.get("precision") == "bf16-true" else None
        parallel = parallelize(task.network, Mesh(ParallelConfig(**layout)), short=short)
    initialize(task.network, draw, 0)
    optimizer = AdamWConfig(lr=0.01).build(task)
    return Engine(task, optimizer, lambda step: 1.0, parallel=parallel, **settings)


def shared_out(e, batches):
    return batches[e.data_rank :: e.data_world]


def tried(rank, layout):
    """Evaluation before, between and after steps, the last of which has too few micro-batches for all ranks."""
    e, found = engine(layout, ema_decay=0.5, clip_norm=0.1), []
    for number in (4, 4, 1):
        with e.evaluation():
            states, rows = added(e.task, shared_out(e, [batch(50 + i) for i in range(3)]), e.device, e.share)
        result = e.step(shared_out(e, [batch(10 * number + i) for i in range(number)]))
        found += [float(states["loss"]), int(rows), result.loss, result.grad_norm, result.count]
    return found


@pytest.mark.parametrize(
    "layout",
    [{"dp_shard": 2}, {"dp_shard": 2, "zero": 1}, {"dp_replicate": 2}, {"pp": 2}, {"pp": 2, "schedule": "zbv"}],
    ids=str,
)
def test_evaluations_and_short_steps_are_those_of_one_process(layout):
    expected = tried(0, None)
    for found in run_ranks(2, tried, layout):
        assert found == pytest.approx(expected, rel=3e-6)


def first_step_without_data(rank):
    e = engine({"dp_shard": 2})
    results = [e.step(shared_out(e, [batch(number)])) for number in range(2)]
    return [(r.loss, r.grad_norm) for r in results]


def test_a_rank_that_never_had_data_takes_part_with_that_of_another():
    e = engine(None)
    expected = [(r.loss, r.grad_norm) for r in (e.step([batch(0)]), e.step([batch(1)]))]
    for found in run_ranks(2, first_step_without_data):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=3e-6, atol=0)


def one_is_bad(rank, layout):
    e = engine(layout, name_row="row {}".format)
    before = [p.detach().clone() for p in e.parameters]
    batches = [batch(0), batch(1, row=99), batch(2), batch(3)]
    result = e.step(shared_out(e, batches))
    unmoved = all(torch.equal(p, b) for p, b in zip(e.parameters, before, strict=True))
    e.step(shared_out(e, [batch(4), batch(5)] * 2))
    return result.skipped, bool(unmoved), e.nonfinite


@pytest.mark.parametrize("layout", [{"dp_shard": 2}, {"tp": 2}, {"pp": 2}], ids=str)
def test_all_ranks_skip_a_step_in_which_one_loss_is_not_finite(layout):
    assert run_ranks(2, one_is_bad, layout) == [("loss", True, 0)] * 2


def named(rank, layout, precision):
    e = engine(layout, precision=precision, max_nonfinite=1, name_row="row {}".format)
    batches = [batch(0), batch(1, row=98)._replace(rows=torch.tensor([99, 98])), batch(2), batch(3)]
    with pytest.raises(TrainingError) as told:
        e.step(shared_out(e, batches))
    return str(told.value)


@pytest.mark.parametrize(
    ("layout", "precision", "rows"),
    [
        ({"dp_replicate": 2}, "32", "row 99."),
        ({"dp_replicate": 2}, "bf16-true", "row 99."),
        ({"tp": 2}, "32", "row 99, row 98."),
    ],
    ids=str,
)
def test_the_guilty_are_named_where_a_rank_can_look_at_each_alone(layout, precision, rows):
    for said in run_ranks(2, named, layout, precision):
        assert f"Utterances: {rows}" in said


def overflow(rank, layout):
    e = engine(layout, precision="16-mixed")
    e.scaler.factor = 2.0**60
    batches = [batch(0), batch(1), batch(2), batch(3)]
    skipped = [e.step(shared_out(e, batches)).skipped for _ in range(3)]
    return skipped, e.scaler.factor


@pytest.mark.parametrize("layout", [{"dp_shard": 2}, {"pp": 2}], ids=str)
def test_an_overflow_is_found_by_all_ranks_of_the_mesh(layout):
    assert run_ranks(2, overflow, layout) == [(["overflow"] * 3, 2.0**57)] * 2


def units(rank):
    e = engine({"dp_shard": 2})
    e.step([batch(0)] if rank == 0 else [batch(1, size=8)])
    return e.unit


def test_all_ranks_divide_by_the_same_power_of_two():
    assert run_ranks(2, units) == [64.0, 64.0]
