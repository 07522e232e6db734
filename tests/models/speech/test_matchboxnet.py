"""MatchboxNet has the papers' sizes, and cuts or pads its input where an archive asks for it."""

import pytest
import torch

from anemone.models.speech.matchboxnet import MatchboxNetConfig, crop_or_pad
from anemone.nn.heads import ClassificationHead


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "classes", "parameters", "thousands"),
    [
        ("3x1x64", 30, 77_214, 77),  # arXiv:2004.08531, table 1
        ("3x2x64", 30, 92_766, 93),
        ("3x2x64", 35, 93_411, 93),
        ("3x2x64", 2, 89_154, 89),  # MarbleNet; arXiv:2010.13886 says 88 thousand
    ],
)
def test_parameters_are_as_many_as_published(size, classes, parameters, thousands):
    with torch.device("meta"):
        encoder = MatchboxNetConfig(size=size).build(num_features=64)
        total = count(encoder) + count(ClassificationHead(encoder.d_model, classes))
    assert total == parameters
    assert round(total / 1000) == thousands


@pytest.mark.parametrize(("frames", "want"), [(3, [0, 0, 1, 2, 3, 0, 0, 0]), (4, [0, 0, 1, 2, 3, 4, 0, 0])])
def test_short_features_get_zeros_on_both_sides(frames, want):
    x = torch.arange(1.0, frames + 1).expand(2, 3, frames)
    assert crop_or_pad(x, 8)[1, 2].tolist() == want


@pytest.mark.parametrize(("frames", "want"), [(11, [2, 3, 4, 5, 6, 7, 8, 9]), (10, [2, 3, 4, 5, 6, 7, 8, 9])])
def test_long_features_lose_both_ends(frames, want):
    x = torch.arange(1.0, frames + 1).expand(2, 3, frames)
    assert crop_or_pad(x, 8)[1, 2].tolist() == want


def test_a_fixed_number_of_frames_counts_as_valid():
    encoder = MatchboxNetConfig(size="3x1x64", num_frames=32).build(num_features=8)
    x, x_len = encoder(torch.randn(2, 8, 20), torch.tensor([20, 11]))
    assert x.shape == (2, 32, 128)
    assert x_len.tolist() == [32, 32]


def test_frames_to_keep_must_be_some():
    with pytest.raises(ValueError, match=r"`num_frames` must be in 1\.\.65536, but is 0 instead"):
        MatchboxNetConfig(num_frames=0)
