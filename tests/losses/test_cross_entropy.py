"""Cross entropy with label smoothing: formula, masks, NeMo's values."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anemone.config import decode
from anemone.errors import ConfigError
from anemone.losses.cross_entropy import CrossEntropyConfig, cross_entropy

GOLDEN = np.load(Path(__file__).parents[1] / "golden/parity/losses/values.npz")


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.45])
def test_it_is_the_formula(smoothing):
    logits, targets = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    log_p = logits.log_softmax(-1)
    right = log_p[range(6), targets]
    expected = -(1 - smoothing) * right - smoothing * (log_p.sum(-1) - right) / 4
    result = cross_entropy(logits, targets, smoothing=smoothing)
    torch.testing.assert_close(result.total, expected.sum())
    assert result.count.item() == 6


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_values_and_gradients_over_sequences_equal_those_of_nemo(smoothing):
    log_probs = torch.from_numpy(GOLDEN["sce_log_probs"]).requires_grad_()
    labels = torch.from_numpy(GOLDEN["sce_labels"])
    result = cross_entropy(log_probs, labels, smoothing=smoothing, keep_mask=labels != 0)
    value = result.total / result.count
    torch.testing.assert_close(value, torch.from_numpy(GOLDEN[f"smoothed_ce.ls{smoothing}.pad0.loss"]))
    # NeMo differentiates with respect to log-probabilities, this with respect to scores: compare through a log-softmax.
    (gradient,) = torch.autograd.grad(value, log_probs)
    theirs = torch.from_numpy(GOLDEN[f"smoothed_ce.ls{smoothing}.pad0.grad"])
    torch.testing.assert_close(gradient, theirs - log_probs.exp() * theirs.sum(-1, keepdim=True))


def test_the_gradient_is_the_derivative():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, targets, smoothing=0.2).total, logits)


def test_masked_items_neither_add_nor_count():
    logits, targets = torch.randn(2, 3, 4), torch.randint(0, 4, (2, 3))
    keep = torch.tensor([[True, True, False], [True, False, False]])
    result = cross_entropy(logits, targets, keep_mask=keep)
    torch.testing.assert_close(result.total, cross_entropy(logits[keep], targets[keep]).total)
    assert result.count.item() == 3


def test_autocast_does_not_lower_the_precision():
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    with torch.autocast("cpu", torch.bfloat16):
        inside = cross_entropy(logits, targets)
        low = cross_entropy(logits.bfloat16(), targets)
    assert torch.equal(inside.total, cross_entropy(logits, targets).total)
    assert low.total.dtype == torch.float32


def test_an_impossible_smoothing_is_refused():
    with pytest.raises(ConfigError, match=r"`smoothing` must be at least 0 and below 0\.5, but is 1\.0 instead"):
        decode(CrossEntropyConfig, {"smoothing": 1})
    assert decode(CrossEntropyConfig, {"smoothing": 0.1}).build().keywords == {"smoothing": 0.1}
