"""Batch normalisation beside short weights: the numbers of float32, and the same names."""

import torch
from torch import nn

from anemone.parallel.norms import widen_batch_norms


def outcome(x, *, short):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    if short:
        widen_batch_norms(norm)
        norm.weight.data, norm.bias.data = norm.weight.data.bfloat16(), norm.bias.data.bfloat16()
    y = norm(x)
    y.float().square().sum().backward()
    return norm, y, norm.eval()(x)


def test_short_gains_are_taken_beside_wide_statistics():
    x = torch.randn(64, 8).bfloat16().float() + 3
    plain, wide_y, wide_eval = outcome(x, short=False)
    norm, y, y_eval = outcome(x.bfloat16(), short=True)
    assert y.dtype == torch.bfloat16 and norm.running_mean.dtype == torch.float32 and int(norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.running_mean, plain.running_mean, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(y.float(), wide_y, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(y_eval.float(), wide_eval, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(norm.weight.grad.float(), plain.weight.grad, rtol=2e-2, atol=0.5)
    assert list(norm.state_dict()) == list(plain.state_dict())
