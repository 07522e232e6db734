"""Rotation by the formula of its paper, its gradient, and its scaling for long texts."""

import cmath
import math

import pytest
import torch

from anemone.config import ConfigError
from anemone.nn.rotary import RotaryScaling, rotary, rotate

B, N, H, K = 2, 5, 3, 8


def positions():
    return torch.tensor([[0, 1, 2, 3, 1000], [7, 0, 5, 5, 90]])


def heads(dtype=torch.float32):
    return torch.randn(B, N, H, K, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_pairs_are_turned_as_complex_numbers_are():
    x, at = heads(), positions()
    got = rotate(x, *rotary(at, K, theta=100.0))
    for b, n, h, i in torch.cartesian_prod(*(torch.arange(s) for s in (B, N, H, K // 2))).tolist():
        pair = complex(x[b, n, h, i], x[b, n, h, i + K // 2])
        turned = pair * cmath.exp(1j * at[b, n].item() * 100.0 ** (-2 * i / K))
        assert got[b, n, h, i].item() == pytest.approx(turned.real, abs=2e-4)
        assert got[b, n, h, i + K // 2].item() == pytest.approx(turned.imag, abs=2e-4)


def test_scores_depend_on_distances_alone():
    query, key = heads(), heads().flip(0)
    at = torch.arange(N).expand(B, N)
    scores = [
        torch.einsum("bnhk,bmhk->bhnm", *(rotate(x, *rotary(at + shift, K)) for x in (query, key))) for shift in (0, 50)
    ]
    assert torch.allclose(*scores, atol=1e-4)


def test_position_zero_turns_nothing():
    x = heads()
    assert torch.equal(rotate(x, *rotary(torch.zeros(B, N, dtype=torch.int64), K)), x)


def test_gradients_are_those_of_the_formula():
    cos, sin = (t.double() for t in rotary(positions(), K))
    x = heads(torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), x)


def test_strides_do_not_matter():
    x = heads().transpose(1, 2).contiguous().transpose(1, 2)
    got = rotate(x, *rotary(positions(), K))
    assert got.is_contiguous()
    assert torch.equal(got, rotate(heads(), *rotary(positions(), K)))


def test_compiled_it_is_the_same():
    x, (cos, sin) = heads(), rotary(positions(), K)
    compiled = torch.compile(rotate, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, cos, sin), rotate(x, cos, sin), atol=1e-6)


def test_the_type_of_states_is_kept():
    cos, sin = rotary(positions(), K)
    assert cos.dtype == sin.dtype == torch.float32
    assert rotate(heads(torch.bfloat16), cos, sin).dtype == torch.bfloat16


def test_angles_of_far_positions_are_right_to_what_float32_holds():
    """At position 100,000 within 0.01 radians, as they were in training of the published weights."""
    at = torch.tensor([[100_000]])
    cos, _ = rotary(at, 64, theta=500_000.0)
    want = [math.cos(100_000 * 500_000.0 ** (-2 * i / 64)) for i in range(32)]
    assert torch.allclose(cos[0, 0], torch.tensor(want), atol=1e-2)


def test_scaling_slows_slow_pairs_only():
    """By the rule of Llama 3.1: unchanged above 4 turns in 16 tokens, an eighth below 1, between them blended."""
    scaling = RotaryScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_len=16)
    one = torch.ones(1, 1, dtype=torch.int64)
    speeds = [torch.atan2(sin, cos).flatten() for cos, sin in (rotary(one, 64), rotary(one, 64, scaling=scaling))]
    for plain, scaled in zip(*(s.tolist() for s in speeds), strict=True):
        turns = 16 * plain / (2 * math.pi)
        share = min(1.0, max(0.0, (turns - 1) / 3))
        assert scaled == pytest.approx(plain * share + plain / 8 * (1 - share), rel=1e-4)
    assert speeds[1][-1] * 8 == pytest.approx(speeds[0][-1].item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 0.9}, "`factor` must be 1 or more, but is 0.9 instead"),
        ({"low_freq_factor": 0.0}, "`low_freq_factor` must be above 0"),
        ({"high_freq_factor": 1.0}, "`high_freq_factor` must be above `low_freq_factor`, but is 1.0 instead"),
        ({"original_len": 0}, "`original_len` must be 1 or more"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RotaryScaling(**settings)
