"""Citrinet and Jasper have the papers' sizes."""

import pytest
import torch

from anemone.errors import ConfigError
from anemone.models.speech.citrinet import CitrinetConfig
from anemone.models.speech.jasper import JasperConfig
from anemone.models.speech.quartznet import BlockConfig


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("config", "features", "parameters"),
    [  # NeMo's
        (CitrinetConfig(size="256"), 80, 9_602_704),
        (CitrinetConfig(size="384"), 80, 20_815_504),
        (CitrinetConfig(size="512"), 80, 36_337_296),
        (CitrinetConfig(size="768"), 80, 80_307_856),
        (CitrinetConfig(size="1024"), 80, 141_514_384),
        (JasperConfig(size="5x3"), 64, 109_679_360),
        (JasperConfig(size="10x5"), 64, 332_602_624),
    ],
    ids=str,
)
def test_parameters_are_as_many_as_nemos(config, features, parameters):
    with torch.device("meta"):
        assert count(config.build(features)) == parameters


def test_kernels_shrink_by_a_factor_and_stay_odd():
    blocks = CitrinetConfig(size="256", kernel_scale=0.25).expanded()
    assert [block.kernel for block in blocks[:8]] == [5, 3, 3, 3, 5, 5, 5, 3]
    assert blocks[-1].kernel == 11


def test_settings_of_named_sizes_reach_the_blocks():
    blocks = CitrinetConfig(size="tiny", dropout=0.25, se_context=50).expanded()
    assert [block.dropout for block in blocks] == [0.0] + 6 * [0.25] + [0.0]
    assert {block.se_context for block in blocks} == {50}


def test_what_belongs_to_named_sizes_is_refused_beside_blocks():
    blocks = CitrinetConfig(size="tiny").expanded()
    with pytest.raises(ConfigError, match=r"`kernel_scale` must be left out"):
        CitrinetConfig(size="custom", blocks=blocks, kernel_scale=0.5)
    with pytest.raises(ConfigError, match=r"`groups` must be a divisor of 20, the width before, but is 8"):
        CitrinetConfig(size="custom", blocks=(BlockConfig(d_model=8, kernel=1, groups=8),)).build(20)
