"""QuartzNet has the papers' sizes."""

import pytest
import torch

from anemone.models.speech.quartznet import SIZES, QuartzNetConfig
from anemone.nn.heads import CTCHead


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "labels", "parameters", "rounded"),
    [
        ("5x5", 28, 6_713_181, "6.7"),  # exact: NeMo's; rounded: arXiv:1910.10261, table 2
        ("10x5", 28, 12_818_781, "12.8"),
        ("15x5", 28, 18_924_381, "18.9"),
        ("5x5", 64, 6_750_081, "6.8"),
        ("tiny", 60, 102_829, "0.1"),
    ],
)
def test_parameters_are_as_many_as_published(size, labels, parameters, rounded):
    with torch.device("meta"):
        encoder = QuartzNetConfig(size=size).build(num_features=64)
        total = count(encoder) + count(CTCHead(encoder.d_model, labels))
    assert total == parameters
    assert f"{total / 1e6:.1f}" == rounded


def test_the_larger_sizes_repeat_the_blocks_of_the_smallest():
    shapes = {size: [(b.d_model, b.kernel) for b in SIZES[size].blocks(0.0) if b.residual] for size in SIZES}
    assert shapes["5x5"] == [(256, 33), (256, 39), (512, 51), (512, 63), (512, 75)]
    assert shapes["15x5"] == [shape for shape in shapes["5x5"] for _ in range(3)]


def test_dropout_reaches_every_block():
    encoder = QuartzNetConfig(size="tiny", dropout=0.25).build(num_features=8)
    assert {block.dropout for block in encoder.blocks} == {0.25}
