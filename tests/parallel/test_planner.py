"""The planner refuses what the code that lays out a network refuses."""

from contextlib import suppress

import pytest
import torch

from anemone.errors import ConfigError
from anemone.parallel import apply, planner
from anemone.parallel.hardware import GPUS
from anemone.parallel.mesh import ParallelConfig
from tests.parallel.simulated import LENGTH, SHAPES, VOCAB, decoder


def accepts(check, *args) -> bool:
    """Whether a check does not raise."""
    with suppress(ConfigError):
        check(*args)
        return True
    return False


@pytest.mark.parametrize("shape", ["dense", "tied", "experts"])
def test_networks_are_refused_alike(shape):
    with torch.device("meta"):
        network = SHAPES[shape].build(VOCAB)
    found = set()
    for tp in (1, 2, 3, 4):
        for pp in (1, 2, 4):
            config = ParallelConfig(tp=tp, pp=pp).resolve(tp * pp)
            asked = planner.Asked(decoder(shape), 12 * LENGTH, 1, pp, tp * pp, GPUS["h100-80gb"], config, {})
            real = accepts(apply.check, network, config)
            assert accepts(planner.check, config, asked) == real, (tp, pp)
            found.add(real)
    assert found == {True, False}
