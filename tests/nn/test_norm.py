"""Root-mean-square normalisation by its formula."""

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


def test_the_type_of_states_is_kept_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert RMSNorm(6)(torch.randn(2, 3, 6)).dtype == torch.float32
    assert RMSNorm(6).to(torch.bfloat16)(torch.randn(2, 3, 6).bfloat16()).dtype == torch.bfloat16
