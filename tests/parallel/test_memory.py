"""Bytes of weights, gradients and optimizer states equal those of the real thing, laid out by the real code."""

import pytest
import torch

from anemone.models.text.llama import LlamaConfig
from anemone.parallel.memory import Decoder, Layout, chunk, count, rank_alike, rank_weights, states
from tests.parallel.simulated import SHAPES, decoder, layout_of, real_states

LAYOUTS = {
    "sharded": (4, 0, {"dp_shard": 4}),
    "sharded unevenly": (5, 4, {"dp_shard": 5}),
    "more shards than rows": (96, 95, {"dp_shard": 96}),
    "copies of shards": (6, 2, {"dp_shard": 3}),
    "gradients whole": (4, 3, {"dp_shard": 4, "zero": 1}),
    "tensor": (2, 1, {"tp": 2}),
    "tensor and sharded unevenly": (10, 9, {"dp_shard": 5, "tp": 2}),
    "context": (6, 1, {"dp_shard": 3, "cp": 2}),
    "first stage": (8, 1, {"dp_shard": 2, "tp": 2, "pp": 2}),
    "last stage, gradients whole": (8, 7, {"dp_shard": 4, "pp": 2, "zero": 1}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_states_are_those_of_the_real_layout(name):
    world, rank, changes = LAYOUTS[name]
    real, shard, stage = real_states("dense", world, rank, changes)
    layout = layout_of(changes, world)
    assert states(rank_alike(decoder("dense"), layout.pipeline, stage), layout, rank=shard) == real


def test_sizes_of_published_models():
    """Numbers of parameters that the model cards give."""
    sizes = {"8b": 8_030_261_248, "70b": 70_553_706_496, "405b": 405_853_388_800}
    for size, number in sizes.items():
        shape = LlamaConfig(size=size).shape
        assert count(Decoder.of(shape, vocab_size=128_256)) == number


def test_chunks_are_those_of_torch():
    for size in range(1, 20):
        for parts in range(1, 12):
            pieces = [len(piece) for piece in torch.arange(size).chunk(parts)]
            assert [chunk(size, parts, index) for index in range(parts)] == pieces + [0] * (parts - len(pieces))


def test_a_decoder_has_the_weights_of_the_model():
    for name, config in SHAPES.items():
        with torch.device("meta"):
            model = config.build(decoder(name).vocab_size)
        named = {weight.name: weight.shape for weight in rank_weights(decoder(name), Layout(), 0)}
        assert named == {name: tuple(p.shape) for name, p in model.named_parameters()}
