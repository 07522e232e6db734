import pytest
import torch

from anemone.errors import ConfigError
from anemone.losses.token_cross_entropy import token_cross_entropy
from anemone.models.text.llama import LlamaConfig
from anemone.parallel import pipeline
from anemone.parallel.apply import parallelize
from anemone.parallel.initial import initialize
from anemone.parallel.mesh import STAGES, Mesh, ParallelConfig
from anemone.parallel.plans.llama import PLAN
from anemone.parallel.processes import run_ranks


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("schedule", STAGES)
def test_every_stage_is_held_by_one_rank(schedule, ranks):
    held = [
        n for r in range(ranks) for n in pipeline.stage_numbers(schedule, r, ranks, stages_per_rank=STAGES[schedule])
    ]
    assert sorted(held) == list(range(ranks * STAGES[schedule]))


def test_layers_are_shared_out_to_the_last():
    for layers in range(1, 130):
        for stages in range(1, layers + 1):
            counts = pipeline.share_layers(layers, stages)
            assert sum(counts) == layers and min(counts) >= 1 and max(counts) - min(counts) <= 2


@pytest.mark.parametrize(
    ("schedule", "count", "words"),
    [
        ("1f1b", 3, "each pipeline has 4 or more"),
        ("dualpipev", 7, "each pipeline has 8 or more"),
        ("interleaved_1f1b", 13, "a multiple of 3"),
        ("interleaved_zero_bubble", 9, "a multiple of 2"),
    ],
)
def test_schedules_say_how_many_micro_batches_they_take(schedule, count, words):
    with pytest.raises(ConfigError, match=f"`trainer.batches_per_step` must be .*{words}"):
        pipeline.check_count(schedule, 4, count)


def small():
    shape = {"d_model": 32, "num_layers": 5, "num_heads": 4, "num_kv_heads": 2, "d_head": 8, "d_ff": 64}
    return LlamaConfig(size="custom", **shape).build(32)


def inputs(number, rows=2, length=8):
    batch = (torch.arange(rows * length).view(rows, length) * (number + 1)) % 32
    return batch, torch.arange(length).expand(rows, length)


def test_a_view_computes_some_layers_and_has_no_weights_of_its_own():
    network = small()
    first = pipeline.view(network, PLAN, ["0", "1"], first=True, last=False)
    last = pipeline.view(network, PLAN, ["2", "3", "4"], first=False, last=True)
    assert {**dict(first.named_parameters()), **dict(last.named_parameters())}.keys() == dict(
        network.named_parameters()
    ).keys()
    assert all(value is network.get_parameter(name) for name, value in first.named_parameters())
    assert network.head is not None and first.head is None and last.embedding is None
    first.register_forward_hook(lambda *_: pytest.fail("the hook of another"))
    tokens, positions = inputs(0)
    states = pipeline.view(network, PLAN, ["0", "1"], first=True, last=False)(tokens, positions)
    assert torch.equal(last(states, positions), network(tokens, positions))


@pytest.mark.parametrize("schedule", STAGES)
def test_a_schedule_computes_what_one_process_does(schedule, parity, bars):
    errors = parity(2, ParallelConfig(pp=2, schedule=schedule))
    assert all(error <= bar for error, bar in zip(errors, bars, strict=True)), errors


@pytest.mark.parametrize(("schedule", "zero"), [("1f1b", 1), ("1f1b", 2), ("interleaved_1f1b", 3), ("dualpipev", 1)])
def test_stages_may_be_sharded(schedule, zero, parity, bars):
    errors = parity(4, ParallelConfig(pp=2, dp_shard=2, schedule=schedule, zero=zero), count=8, steps=1)
    assert all(error <= bar for error, bar in zip(errors, bars, strict=True)), errors


def test_layers_need_not_divide_evenly(parity, bars):
    errors = parity(2, ParallelConfig(pp=2), num_layers=5, steps=1)
    assert all(error <= bar for error, bar in zip(errors, bars, strict=True)), errors


def evaluated(rank, schedule):
    """Losses of three micro-batches, then of two others of another shape, and who has which layers."""
    network = small()
    parallel = parallelize(network, Mesh(ParallelConfig(pp=2, schedule=schedule)))
    initialize(network, network.draw, 3)
    asked = []

    def loss(output, number):
        asked.append(number)
        return token_cross_entropy(output, inputs(number, *shape)[0])[0]

    driver, found = parallel.schedule(loss), []
    for count, shape in ((3, (2, 8)), (2, (1, 6))):
        found += [part.item() for part in driver.evaluate([inputs(number, *shape) for number in range(count)])]
    return found, asked, sorted(network.layers), parallel.is_last


@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_evaluation_takes_any_number_of_micro_batches_of_any_shape(schedule):
    network = small()
    initialize(network, network.draw, 3)
    with torch.no_grad():
        truth = [
            token_cross_entropy(network(*inputs(n, *shape)), inputs(n, *shape)[0])[0].item()
            for count, shape in ((3, (2, 8)), (2, (1, 6)))
            for n in range(count)
        ]
    results = run_ranks(2, evaluated, schedule)
    losses, asked, _, _ = next(result for result in results if result[3])
    assert losses == pytest.approx(truth) and asked == [0, 1, 2, 0, 1]
    assert sorted(name for result in results for name in result[2]) == ["0", "1", "2", "3", "4"]
