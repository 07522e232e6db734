"""The engine step: the same gradient however a step is cut up and wherever it runs; what it skips, it forgets."""

import logging
import math

import pytest
import torch
from torch import nn

from anemone.data.batch import Batch
from anemone.errors import TrainingError
from anemone.losses import LossSum
from anemone.testing import run_ranks
from anemone.training import ranks
from anemone.training.engine import Engine, mix
from anemone.training.optim import AdamWConfig
from anemone.training.schedules import ConstantConfig, CosineConfig


class Toy(nn.Module):
    """Convolution, batch normalisation and dropout over raw samples; two classes."""

    def __init__(self, dropout=0.3):
        super().__init__()
        self.conv = nn.Conv1d(1, 8, 5, stride=3, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 2)
        self.unused = nn.Linear(2, 2)

    def loss(self, batch):
        x = self.norm(self.conv(batch.audio[:, None])).relu().mean(2)
        x = self.head(self.dropout(x)).float()
        return LossSum(
            nn.functional.cross_entropy(x, batch.targets[:, 0], reduction="sum"), torch.tensor(float(len(x)))
        )


def batch(seed, size=4, row=0):
    rng = torch.Generator().manual_seed(seed)
    audio = torch.randn(size, 60, generator=rng)
    targets = torch.randint(2, (size, 1), generator=rng)
    return Batch(audio, torch.full((size,), 60), targets, torch.ones(size).long(), torch.arange(row, row + size))


def toy(dropout=0.3):
    torch.manual_seed(1)
    return Toy(dropout)


def engine(task=None, *, lr=0.01, schedule=None, **settings):
    task = task or toy()
    return Engine(task, AdamWConfig(lr=lr).build(task), schedule or ConstantConfig().build(100), **settings)


def steps(number, micro_batches=4):
    """Global steps of micro-batches of different sizes; the last one has one micro-batch fewer."""
    made = [[batch(10 * s + m, size=3 + m) for m in range(micro_batches)] for s in range(number)]
    made[-1].pop()
    return made


def curve(rank, micro_batches):
    """Losses, gradient norms and final state of this rank's share of the same global steps."""
    e = engine(clip_norm=0.5, ema_decay=0.9, seed=3)
    results = [e.step(step[ranks.rank() :: ranks.world()]) for step in steps(6, micro_batches)]
    state = {name: tensor.clone() for name, tensor in e.task.state_dict().items() if "tracked" not in name}
    return [(r.loss, r.grad_norm, r.count) for r in results], state, dict(e.average.mean)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_give_the_losses_gradients_statistics_and_averages_of_one_process(world):
    losses, state, mean = curve(0, 4)
    for other_losses, other_state, other_mean in run_ranks(world, curve, 4):
        torch.testing.assert_close(torch.tensor(other_losses), torch.tensor(losses), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other_state, state, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other_mean, mean, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_the_sum_over_the_count_of_all_micro_batches():
    whole, parts = toy(dropout=0.0).eval(), toy(dropout=0.0).eval()
    pieces = [batch(1, 2), batch(2, 5), batch(3, 3)]
    joined = Batch(*(torch.cat(column) for column in zip(*(piece[:5] for piece in pieces), strict=True)))
    a, b = engine(whole).step([joined]), engine(parts).step(pieces)
    assert (a.count, b.count) == (10, 10)
    assert b.loss == pytest.approx(a.loss, rel=1e-6) and b.grad_norm == pytest.approx(a.grad_norm, rel=1e-5)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_step_does_not_depend_on_the_random_state_it_finds():
    results = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        results.append(engine(toy(), seed=7).step([batch(0)]).loss)
    assert results[0] == results[1] != engine(toy(), seed=8).step([batch(0)]).loss


def test_dropout_differs_between_steps_and_micro_batches():
    e = engine(toy(), lr=1e-12)
    same = batch(0)
    losses = {e.step([same]).loss for _ in range(3)} | {e.step([same, same]).loss}
    assert len(losses) == 4


def test_seeds_differ_wherever_a_number_does():
    seeds = {mix(seed, step, number) for seed in range(8) for step in range(8) for number in range(8)}
    assert len(seeds) == 512 and all(0 <= seed < 2**64 for seed in seeds)


def test_the_rate_follows_the_schedule_from_the_groups_own_base():
    e = engine(schedule=CosineConfig(warmup_steps=1).build(4), lr=0.02)
    e.optimizer.param_groups[1]["base_lr"] = 0.1
    seen = []
    for _ in range(3):
        factor = e.step([batch(0)]).factor
        seen.append(factor)
        assert [g["lr"] for g in e.optimizer.param_groups] == pytest.approx([0.02 * factor, 0.1 * factor])
    assert seen == pytest.approx([0.5, 1.0, 0.75])


def test_clipping_scales_the_gradient_to_the_norm_and_leaves_shorter_ones():
    def moved(**settings):
        task = toy(dropout=0.0)
        e = Engine(task, torch.optim.SGD([{"params": task.parameters(), "base_lr": 1.0}]), lambda step: 1.0, **settings)
        before = nn.utils.parameters_to_vector(task.parameters()).detach().clone()
        norm = e.step([batch(0)]).grad_norm
        return float((nn.utils.parameters_to_vector(task.parameters()).detach() - before).norm()), norm

    free, norm = moved()
    assert free == pytest.approx(norm, rel=1e-5)
    assert moved(clip_norm=norm / 10)[0] == pytest.approx(norm / 10, rel=1e-4)
    assert moved(clip_norm=norm * 10)[0] == pytest.approx(norm, rel=1e-5)


def test_averaged_weights_follow_their_formula_and_serve_evaluation_alone():
    task = toy()
    e = engine(task, ema_decay=0.9)
    expected = task.head.weight.detach().clone()
    for n in range(4):
        e.step([batch(n)])
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * task.head.weight.detach()
    live = task.head.weight.detach().clone()
    with e.evaluation():
        torch.testing.assert_close(task.head.weight, expected)
        assert not task.training and not torch.is_grad_enabled()
    assert torch.equal(task.head.weight, live) and task.training
    e.settle()
    torch.testing.assert_close(task.head.weight.detach(), expected)


def poison(b, *items):
    audio = b.audio.clone()
    audio[list(items)] = math.nan
    return b._replace(audio=audio)


def test_a_nonfinite_loss_names_the_utterances_and_leaves_no_trace(caplog):
    task = toy()
    e = engine(task, ema_decay=0.9, name_row="train.jsonl:{}".format)
    e.step([batch(0)])
    before = {name: tensor.clone() for name, tensor in task.state_dict().items() if "tracked" not in name}
    mean = {name: tensor.clone() for name, tensor in e.average.mean.items()}
    with caplog.at_level(logging.WARNING, "anemone.training"):
        result = e.step([batch(1, row=10), poison(batch(2, row=20), 1, 3)])
    assert result.skipped == "loss" and math.isnan(result.loss)
    assert "The loss of step 1 is nan, so it is skipped. Utterances: train.jsonl:21, train.jsonl:23." in caplog.text
    after = task.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(mean[name], e.average.mean[name]) for name in mean)
    assert (e.steps, e.nonfinite) == (2, 1)
    assert e.step([batch(3)]).skipped == "" and e.nonfinite == 0


def test_a_nonfinite_gradient_of_a_finite_loss_is_skipped_too():
    task = toy()
    task.head.weight.register_hook(lambda gradient: gradient * math.inf)
    before = task.conv.weight.detach().clone()
    result = engine(task).step([batch(0)])
    assert result.skipped == "gradient" and math.isfinite(result.loss)
    assert torch.equal(task.conv.weight, before)


def test_too_many_nonfinite_steps_in_a_row_stop_the_run():
    e = engine(max_nonfinite=3, name_row="train.jsonl:{}".format)
    e.step([poison(batch(0), 0)])
    e.step([poison(batch(0), 0)])
    e.step([batch(0)])
    e.step([poison(batch(0), 0)])
    e.step([poison(batch(0), 0)])
    pattern = (
        r"loss of step 5 is nan.*train\.jsonl:42\. It is number 3 in a row and `trainer\.max_nonfinite`.*`optim\.lr`"
    )
    with pytest.raises(TrainingError, match=pattern):
        e.step([poison(batch(0, row=40), 2)])


def one_bad_rank(rank):
    e = engine(max_nonfinite=1, name_row="row {}".format)
    try:
        e.step([poison(batch(rank, row=10 * rank), 2) if rank == 1 else batch(rank)])
    except TrainingError as error:
        return str(error)


def test_all_ranks_name_the_utterance_that_one_of_them_met():
    messages = run_ranks(2, one_bad_rank)
    assert messages[0] == messages[1] and "Utterances: row 12." in messages[0]


def test_a_step_without_utterances_moves_nothing():
    task = toy()
    e = engine(task)
    e.step([batch(0)])
    before = task.head.weight.detach().clone()
    assert e.step([]).skipped == "empty"
    assert torch.equal(task.head.weight, before)


@pytest.mark.parametrize("precision", ["32", "16-mixed"])
def test_a_restored_engine_goes_on_bit_by_bit(precision):
    straight = engine(toy(), precision=precision, ema_decay=0.9, seed=2)
    for n in range(6):
        straight.step([batch(n)])
    first = engine(toy(), precision=precision, ema_decay=0.9, seed=2)
    for n in range(3):
        first.step([batch(n)])
    task = Toy()
    task.load_state_dict(first.task.state_dict())
    second = engine(task, precision=precision, ema_decay=0.9, seed=2)
    second.load_state_dict(first.state_dict())
    for n in range(3, 6):
        second.step([batch(n)])
    for a, b in ((straight.task.state_dict(), task.state_dict()), (straight.average.mean, second.average.mean)):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert straight.scaler.state_dict() == second.scaler.state_dict()
