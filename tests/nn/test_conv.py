"""Blocks of convolutions: what they compute, and that padding does not leak."""

import pytest
import torch
import torch.nn.functional as F

from anemone.nn.conv import ConvBlock, ConvUnit
from anemone.types import checked

UNITS = {
    "separable": ConvUnit(12, 16, 5),
    "separable, strided": ConvUnit(12, 16, 5, stride=2),
    "separable, dilated": ConvUnit(12, 16, 5, dilation=2),
    "separable, kernel 1": ConvUnit(12, 16, 1),
    "full": ConvUnit(12, 16, 5, separable=False),
    "full, strided": ConvUnit(12, 16, 5, stride=2, separable=False),
    "full, dilated": ConvUnit(12, 16, 5, dilation=3, separable=False),
    "pointwise": ConvUnit(12, 16, 1, separable=False),
}


def plain(unit, x, x_len):
    """Jasper's masked convolutions, layer by layer, on (B, D, T)."""

    def masked_conv(x, x_len, weight, stride, dilation, groups):
        x = x * (torch.arange(x.shape[2]) < x_len[:, None]).unsqueeze(1)
        y = F.conv1d(x, weight, None, stride, dilation * (weight.shape[2] // 2), dilation, groups)
        return y, (x_len + stride - 1) // stride

    x = x.transpose(1, 2)
    if unit.depthwise is not None:
        weight = unit.depthwise.weight
        x, x_len = masked_conv(x, x_len, weight, unit.stride, unit.depthwise.dilation, len(weight))
        return masked_conv(x, x_len, unit.pointwise.weight.unsqueeze(2), 1, 1, 1)
    if unit.kernel == 1:
        return masked_conv(x, x_len, unit.pointwise.weight.unsqueeze(2), 1, 1, 1)
    return masked_conv(x, x_len, unit.pointwise.weight, unit.stride, unit.pointwise.dilation[0], 1)


@pytest.mark.parametrize("name", list(UNITS))
@pytest.mark.parametrize("training", [True, False])
def test_a_unit_equals_masked_convolutions_and_batch_norm_on_every_frame(name, training):
    unit = UNITS[name].train(training)
    x, x_len = torch.randn(3, 21, 12), torch.tensor([21, 14, 9])
    y, y_len = plain(unit, x, x_len)
    norm = torch.nn.BatchNorm1d(16, eps=1e-3).train(training)
    norm.load_state_dict(unit.norm.state_dict())
    with checked(unit):
        got = unit(x, x_len)
    assert torch.equal(got.x_len, y_len)
    assert torch.allclose(got.x, norm(y).transpose(1, 2), atol=2e-5)
    assert torch.allclose(unit.norm.running_var, norm.running_var, atol=1e-5)


@pytest.mark.parametrize("name", list(UNITS))
def test_what_stands_beyond_the_length_changes_nothing(name):
    unit = UNITS[name]
    x, x_len = torch.randn(2, 21, 12), torch.tensor([21, 14])
    dirty = x.clone()
    dirty[1, 14:] = 1e4
    for training in (True, False):
        unit.train(training)
        assert torch.equal(unit(x, x_len).x, unit(dirty, x_len).x)


def test_a_residual_block_adds_its_input_before_the_last_relu():
    block = ConvBlock(8, 8, 3, repeat=2).eval()
    with torch.no_grad():
        block.units[1].pointwise.weight.zero_()
        block.residual.pointwise.weight.copy_(torch.eye(8))
        block.residual.norm.running_var.fill_(1 - 1e-3)
    x, x_len = torch.randn(2, 7, 8), torch.tensor([7, 7])
    assert torch.allclose(block(x, x_len).x, x.relu(), atol=1e-6)


def test_dropout_acts_in_training_only():
    block = ConvBlock(8, 64, 3, dropout=0.5, residual=False)
    x, x_len = torch.randn(4, 50, 8), torch.tensor([50] * 4)
    zeros = {mode: (block.train(mode)(x, x_len).x == 0).float().mean().item() for mode in (True, False)}
    assert zeros[True] == pytest.approx(0.75, abs=0.05)
    assert zeros[False] == pytest.approx(0.5, abs=0.1)
