"""Root-mean-square normalisation by its formula."""

import pytest
import torch

from anemone.nn.norm import RMSNorm
from anemone.types import checked


def test_states_are_divided_by_their_root_mean_square():
    norm = RMSNorm(6, eps=0.1)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 6)
    with checked(norm):
        got = norm(x)
    want = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * norm.weight
    assert torch.allclose(got, want, atol=1e-6)


def test_the_size_of_states_does_not_matter():
    x = torch.randn(2, 3, 6)
    assert torch.allclose(RMSNorm(6, eps=0.0)(x), RMSNorm(6, eps=0.0)(1000 * x), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_those_of_the_formula(dtype):
    """Within 1e-6 of the largest number in float32, and within its rounding in bfloat16."""
    norm = RMSNorm(32, eps=0.1).to(dtype)
    torch.nn.init.normal_(norm.weight)
    x, grad = torch.randn(4, 300, 32).to(dtype).requires_grad_(), torch.randn(4, 300, 32).to(dtype)
    got = torch.autograd.grad(norm(x), (x, norm.weight), grad)
    y, weight = (t.detach().double().requires_grad_() for t in (x, norm.weight))
    want = torch.autograd.grad(torch.nn.functional.rms_norm(y, (32,), weight, 0.1), (y, weight), grad.double())
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == dtype
        bound = {torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
        assert (mine.double() - theirs).abs().max() <= bound * theirs.abs().max()


def test_compiled_it_is_the_same():
    norm, x = RMSNorm(32), torch.randn(2, 3, 32)
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), norm(x), atol=1e-6)


def test_the_type_of_states_is_kept_but_under_autocast():
    x = torch.randn(2, 3, 6)
    assert RMSNorm(6)(x).dtype == torch.float32
    assert RMSNorm(6).to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        short = RMSNorm(6)(x)
    assert torch.equal(short, RMSNorm(6)(x).bfloat16())
