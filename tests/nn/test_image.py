"""Convolutions in stretches."""

import pytest
import torch
from torch import Tensor

from anemone.nn import image
from anemone.nn.subsampling import ImageSubsampling


def both_ways(sample: ImageSubsampling, x: Tensor, x_len: Tensor) -> list[list[Tensor]]:
    """Valid states and gradients of weights, in stretches and image after image."""
    results = []
    for _ in range(2):
        sample.zero_grad()
        y, y_len = sample(x, x_len)
        valid = torch.cat([each[:n] for each, n in zip(y, y_len, strict=True)])
        valid.sin().sum().backward()
        results.append([valid.detach(), y_len, *(p.grad for p in sample.parameters() if p.grad is not None)])
        sample.separable = False
    return results


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[45, 33, 1], [44, 16, 0], [8, 2, 3]])
def test_stretches_give_the_states_and_gradients_of_whole_images(
    causal: bool, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(image, "STRETCH", 2000)  # two frames of the output
    sample = ImageSubsampling(20, 12, kind="dw_striding", factor=8, channels=16, causal=causal).double()
    x = torch.randn(3, max(lengths), 20, dtype=torch.float64)
    stretches, whole = both_ways(sample, x, torch.tensor(lengths))
    assert len(stretches) == len(whole) == 2 + len(list(sample.parameters()))
    for got, expected in zip(stretches, whole, strict=True):
        torch.testing.assert_close(got, expected)


def test_states_that_want_a_gradient_get_it() -> None:
    sample = ImageSubsampling(8, 4, kind="dw_striding", factor=4, channels=8)
    x = torch.randn(1, 17, 8, requires_grad=True)
    sample(x, torch.tensor([17])).x.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
