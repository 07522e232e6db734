"""Time and memory of a step: bubbles and micro-batches in flight are those of torch's schedules; sums are sane."""

from dataclasses import replace

import pytest

from anemone.models.text.llama import SIZES
from anemone.parallel.activations import in_flight
from anemone.parallel.costs import Pass, model_operations
from anemone.parallel.hardware import GPUS
from anemone.parallel.memory import Decoder, Layout
from anemone.parallel.prediction import Job, bubble, predict
from tests.parallel.orders import most_waiting, orders, seconds
from tests.parallel.published import DECODERS

SCHEDULES = [
    ("gpipe", 1),
    ("1f1b", 1),
    ("interleaved_1f1b", 2),
    ("interleaved_1f1b", 4),
    ("looped_bfs", 2),
    ("interleaved_zero_bubble", 2),
    ("zbv", 2),
    ("dualpipev", 2),
]
H100 = GPUS["h100-80gb"]
JOB = Job(DECODERS["llama3_8b"], 8192, 1, 4)


@pytest.mark.parametrize("pp", [2, 4, 8])
@pytest.mark.parametrize("schedule, chunks", SCHEDULES)
def test_bubbles_are_those_of_torchs_schedules(schedule, chunks, pp):
    """A forward of a stage takes one second, its backward two, in halves where they come apart."""
    late = schedule in ("interleaved_zero_bubble", "zbv", "dualpipev")
    for count in (2 * pp, 4 * pp) if late else (1, pp // 2, pp, 2 * pp, 4 * pp):
        taken = seconds(orders(schedule, pp, chunks, count))
        layout = Layout(pp=pp, schedule=schedule, stages_per_rank=chunks)
        rank = Pass(1.0 * chunks, 2.0 * chunks)
        assert count * sum(rank) + bubble(layout, [sum(rank)] * pp, rank, micro_batches=count) == pytest.approx(taken)


@pytest.mark.parametrize("schedule, chunks", [("interleaved_zero_bubble", 2), ("zbv", 2)])
def test_a_few_micro_batches_take_about_what_is_planned(schedule, chunks):
    for count in (1, 2, 4):
        taken = seconds(orders(schedule, 4, chunks, count))
        layout, rank = Layout(pp=4, schedule=schedule, stages_per_rank=chunks), Pass(2.0, 4.0)
        assert count * 6 + bubble(layout, [6.0] * 4, rank, micro_batches=count) == pytest.approx(taken, rel=0.25)


@pytest.mark.parametrize("pp", [2, 4, 8])
@pytest.mark.parametrize("schedule, chunks", SCHEDULES)
def test_micro_batches_in_flight_are_those_of_torchs_schedules(schedule, chunks, pp):
    for count in (2 * pp, 4 * pp):
        for rank, order in orders(schedule, pp, chunks, count).items():
            planned = in_flight(schedule, pp, rank, chunks=chunks, micro_batches=count) * chunks
            assert planned == most_waiting(order)


def test_the_model_operations_are_those_of_the_palm_formula():
    """6 N + 12 L H K S for Llama 3 8B, without its embedding."""
    assert (
        model_operations(JOB.decoder, 8192)
        == 6 * (8_030_261_248 - 128_256 * 4096 - 65 * 4096) + 12 * 32 * 4096 * 8192 + 6 * 64 * 4096
    )


def test_parts_add_up():
    found = predict(JOB, Layout(dp_shard=8, tp=2, pp=2, compile=True), H100)
    rate = JOB.sequences(found.layout) * 8192 / found.step / found.layout.world
    assert found.tokens_per_second == pytest.approx(rate)
    assert found.utilisation == pytest.approx(rate * model_operations(JOB.decoder, 8192) / 989e12)
    assert all(value >= 0 for value in found.seconds.values())
    assert found.needed == sum(found.memory.values())


def test_more_of_a_resource_never_hurts():
    layout = Layout(dp_shard=16, tp=8, compile=True)
    slow = predict(JOB, layout, replace(H100, slow=5e9))
    assert predict(JOB, layout, H100).step < slow.step
    assert predict(JOB, replace(layout, async_tp=True), H100).step < predict(JOB, layout, H100).step
    assert predict(JOB, replace(layout, compile=False), H100).step > predict(JOB, layout, H100).step


def test_a_head_with_the_weights_of_the_embedding_is_sent_no_more_than_one_of_its_own():
    decoder, layout = Decoder.of(SIZES["1b"], vocab_size=128_256), Layout(dp_shard=8, compile=True)
    tied, own = (
        predict(JOB._replace(decoder=replace(decoder, tie_embeddings=tie)), layout, H100).seconds
        for tie in (True, False)
    )
    assert tied["communication"] <= own["communication"]


def test_recomputation_trades_memory_for_time():
    modes = [predict(JOB, Layout(dp_shard=8, recompute=mode), H100) for mode in ("none", "selective", "full")]
    memory = [found.memory["activations"] for found in modes]
    assert memory == sorted(memory, reverse=True)
    times = [found.step for found in modes]
    assert times == sorted(times)


def test_sharding_divides_what_it_says():
    whole, zero1, zero2, zero3 = (
        predict(JOB, Layout(**degrees), H100).memory
        for degrees in ({"dp_replicate": 8}, *({"dp_shard": 8, "zero": zero} for zero in (1, 2, 3)))
    )
    assert whole["optimizer"] > 7.9 * zero1["optimizer"] and zero1["optimizer"] == zero3["optimizer"]
    assert zero1["gradients"] > 7.9 * zero2["gradients"] and zero2["gradients"] == zero3["gradients"]
    assert zero2["gathered"] > 3 * zero3["gathered"]
