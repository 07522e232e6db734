"""The depthwise convolution is PyTorch's, quicker: same outputs, same gradients, whatever the shape."""

import pytest
import torch
import torch.nn.functional as F

from anemone.nn.depthwise import DepthwiseConv, depthwise_conv
from anemone.types import checked

SHAPES = [  # batch, frames, width, kernel, stride, dilation
    (2, 37, 48, 5, 1, 1),
    (2, 38, 40, 7, 2, 1),
    (2, 38, 3, 7, 3, 1),
    (3, 41, 16, 9, 1, 2),
    (3, 42, 16, 9, 1, 3),
    (2, 41, 16, 9, 2, 2),
    (1, 3, 16, 9, 1, 1),
    (1, 3, 16, 9, 1, 4),
    (2, 1, 16, 1, 1, 1),
    (1, 1000, 16, 11, 1, 1),
]


def reference(x, weight, stride, dilation):
    """PyTorch's convolution of (B, D, T)."""
    pad = dilation * (weight.shape[2] // 2)
    y = F.conv1d(x.transpose(1, 2), weight, None, stride, pad, dilation, groups=len(weight))
    return y.transpose(1, 2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_equal_pytorchs(shape):
    batch, frames, width, kernel, stride, dilation = shape
    x = torch.randn(batch, frames, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(width, 1, kernel, dtype=torch.float64, requires_grad=True)
    want = reference(x, weight, stride, dilation)
    grad = torch.randn_like(want)
    got = depthwise_conv(x, weight, stride=stride, dilation=dilation)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)
    gradients = zip(
        torch.autograd.grad(got, (x, weight), grad), torch.autograd.grad(want, (x, weight), grad), strict=True
    )
    assert all(torch.allclose(a, b, rtol=0, atol=1e-11) for a, b in gradients)
    with torch.no_grad():
        assert torch.allclose(depthwise_conv(x, weight, stride=stride, dilation=dilation), want, rtol=0, atol=1e-12)


def test_single_precision_is_as_exact_as_pytorchs():
    x, weight = torch.randn(2, 300, 64, requires_grad=True), torch.randn(64, 1, 33, requires_grad=True)
    exact = reference(x.double(), weight.double(), 1, 1)
    grad = torch.randn(2, 300, 64)
    want = torch.autograd.grad(exact, weight, grad.double())[0]
    for conv in (lambda: depthwise_conv(x, weight), lambda: reference(x, weight, 1, 1)):
        assert (conv() - exact).abs().max() < 2e-5
        assert (torch.autograd.grad(conv(), weight, grad)[0] - want).abs().max() < 2e-4


def test_only_the_gradient_that_is_wanted_is_computed():
    x, weight = torch.randn(1, 9, 16), torch.randn(16, 1, 3)
    weight.requires_grad_()
    depthwise_conv(x, weight).sum().backward()
    assert weight.grad is not None and x.grad is None
    x.requires_grad_()
    depthwise_conv(x, weight.detach()).sum().backward()
    assert torch.allclose(x.grad[0, 4], weight[:, 0].sum(1), atol=1e-6)


def test_autocast_computes_in_bfloat16_and_gives_float32_gradients():
    x, weight = torch.randn(2, 40, 16, requires_grad=True), torch.randn(16, 1, 5, requires_grad=True)
    want = torch.autograd.grad(reference(x, weight, 1, 1).square().sum(), (x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv(x, weight)
    got = torch.autograd.grad(y.float().square().sum(), (x, weight))
    assert y.dtype == torch.bfloat16
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.02 * b.norm()


def test_a_layer_keeps_its_ports_and_the_variance():
    layer = DepthwiseConv(64, kernel=11, stride=2)
    x = torch.randn(4, 200, 64)
    with checked(layer):
        y = layer(x)
    assert y.shape == (4, 100, 64)
    assert 0.8 < y.std() < 1.2
