"""Squeeze-and-excitation scales channels by the mean of the valid frames, or of a window of them in training."""

import torch

from anemone.nn.squeeze import SqueezeExcite
from anemone.types import checked


def plain(module, x):
    """Of one recording without padding."""
    gate = torch.sigmoid(torch.relu(x.mean(1) @ module.down.weight.T) @ module.up.weight.T)
    return x * gate[:, None]


def test_it_is_the_formula_over_the_valid_frames():
    module = SqueezeExcite(16, reduction=4)
    x, x_len = torch.randn(3, 9, 16), torch.tensor([9, 5, 1])
    with checked(module):
        y = module(x, x_len)
    for b, n in enumerate(x_len):
        assert torch.allclose(y[b, :n], plain(module, x[b : b + 1, :n])[0], atol=1e-6)
        assert not y[b, n:].any()


def test_a_window_is_drawn_in_training_only():
    module = SqueezeExcite(16, context=4)
    x, x_len = torch.randn(1, 9, 16), torch.tensor([9])
    torch.manual_seed(0)
    drawn = {tuple(module(x, x_len).flatten().tolist()) for _ in range(60)}
    assert len(drawn) == 6  # places of a window of four frames among nine
    module.eval()
    assert torch.allclose(module(x, x_len), plain(module, x), atol=1e-6)


def test_a_window_as_long_as_the_recording_is_all_of_it():
    module = SqueezeExcite(16, context=9)
    x = torch.randn(1, 9, 16)
    assert torch.allclose(module(x, torch.tensor([9])), plain(module, x), atol=1e-6)


def test_it_computes_in_float32_under_autocast():
    module = SqueezeExcite(16)
    x = (100 * torch.randn(1, 2000, 16)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x, torch.tensor([2000]))
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), plain(module, x.float()), rtol=0.01)
