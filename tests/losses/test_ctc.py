"""CTC equals the sum over all alignments, PyTorch's own values and NeMo's."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from anemone.config import decode
from anemone.errors import ConfigError
from anemone.losses.ctc import CTCConfig, ctc_loss, infeasible
from anemone.nn.heads import CTCHead

GOLDEN = np.load(Path(__file__).parents[1] / "golden/parity/losses/values.npz")


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name])


def collapse(path: tuple[int, ...], blank: int) -> list[int]:
    return [key for key, _ in itertools.groupby(path) if key != blank]


def by_enumeration(log_probs: torch.Tensor, target: list[int]) -> float:
    """-log of the summed probability of every path of frames that reads as the target."""
    frames, size = log_probs.shape
    total = -torch.inf
    for path in itertools.product(range(size), repeat=frames):
        if collapse(path, size - 1) == target:
            total = torch.logaddexp(torch.tensor(total), log_probs[range(frames), path].sum()).item()
    return -total


@pytest.mark.parametrize("target", [[], [0], [1], [0, 1], [1, 1], [0, 1, 0], [0, 0, 1]])
@pytest.mark.parametrize("frames", [3, 5])
def test_the_loss_is_the_sum_over_all_alignments(target, frames):
    log_probs = torch.randn(1, frames, 3).log_softmax(-1)
    targets = torch.tensor([[*target, 0, 0]])
    result = ctc_loss(log_probs, torch.tensor([frames]), targets, torch.tensor([len(target)]), reduction="mean_batch")
    expected = by_enumeration(log_probs[0], target)
    lost = bool(infeasible(torch.tensor([frames]), targets, torch.tensor([len(target)])))
    assert lost == np.isinf(expected)
    assert result.total.item() == pytest.approx(0.0 if lost else expected, abs=1e-5)


@pytest.mark.parametrize("reduction", ["mean_batch", "mean_volume", "mean"])
def test_values_and_gradients_equal_those_of_nemo(reduction):
    log_probs = golden("ctc_log_probs").requires_grad_()
    result = ctc_loss(
        log_probs, golden("ctc_input_lens"), golden("targets"), golden("target_lens"), reduction=reduction
    )
    value = result.total / result.count
    torch.testing.assert_close(value, golden(f"ctc.{reduction}.loss"))
    (gradient,) = torch.autograd.grad(value, log_probs)
    torch.testing.assert_close(gradient, golden(f"ctc.{reduction}.grad"), atol=1e-6, rtol=1e-5)


def test_the_sum_is_that_of_nemo_whatever_it_is_divided_by():
    for reduction in ("mean_batch", "mean_volume"):
        result = ctc_loss(
            golden("ctc_log_probs"),
            golden("ctc_input_lens"),
            golden("targets"),
            golden("target_lens"),
            reduction=reduction,
        )
        torch.testing.assert_close(result.total, golden("ctc.sum.loss"))


@pytest.mark.parametrize("reduction", ["mean_batch", "mean_volume", "mean"])
def test_the_gradient_is_the_derivative(reduction):
    logits = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    targets, target_len = torch.tensor([[0, 1, 1], [2, 0, 0], [0, 0, 0]]), torch.tensor([3, 1, 0])

    def loss(x: torch.Tensor) -> torch.Tensor:
        return ctc_loss(x.log_softmax(-1), torch.tensor([6, 4, 5]), targets, target_len, reduction=reduction).total

    assert torch.autograd.gradcheck(loss, logits)


def test_an_impossible_alignment_adds_zero_but_counts():
    log_probs = torch.randn(2, 3, 5).log_softmax(-1).requires_grad_()
    targets, target_len = torch.tensor([[1, 1, 2], [1, 2, 0]]), torch.tensor([3, 2])  # `1 1 2` needs four frames
    frames = torch.tensor([3, 3])
    assert infeasible(frames, targets, target_len).tolist() == [True, False]
    both = ctc_loss(log_probs, frames, targets, target_len, reduction="mean_batch")
    good = ctc_loss(log_probs[1:], frames[1:], targets[1:], target_len[1:], reduction="mean_batch")
    assert both.count.item() == 2
    torch.testing.assert_close(both.total, good.total)
    (gradient,) = torch.autograd.grad(both.total, log_probs)
    assert gradient.isfinite().all() and not gradient[0].any() and gradient[1].any()


def test_an_empty_text_costs_the_blanks_alone():
    log_probs = torch.randn(2, 4, 3).log_softmax(-1).requires_grad_()
    for targets in (torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)):
        result = ctc_loss(log_probs, torch.tensor([4, 2]), targets, torch.tensor([0, 0]), reduction="mean")
        torch.testing.assert_close(result.total, -log_probs[0, :, 2].sum() - log_probs[1, :2, 2].sum())
        assert torch.autograd.grad(result.total, log_probs)[0].isfinite().all()
        assert not infeasible(torch.tensor([4, 0]), targets, torch.tensor([0, 0])).any()


def test_autocast_does_not_lower_the_precision():
    log_probs = torch.randn(2, 8, 5).log_softmax(-1)
    batch = torch.tensor([8, 6]), torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
    expected = ctc_loss(log_probs, *batch, reduction="mean_batch")
    with torch.autocast("cpu", torch.bfloat16):
        inside = ctc_loss(log_probs, *batch, reduction="mean_batch")
        low = ctc_loss(log_probs.bfloat16(), *batch, reduction="mean_batch")
    assert inside.total.dtype == low.total.dtype == torch.float32
    assert torch.equal(inside.total, expected.total)
    torch.testing.assert_close(low.total, expected.total, rtol=2e-2, atol=0)


def test_sums_and_counts_of_parts_add_up_to_the_whole():
    log_probs = torch.randn(4, 9, 6).log_softmax(-1)
    frames, targets, lengths = torch.tensor([9, 8, 7, 9]), torch.randint(0, 5, (4, 3)), torch.tensor([3, 2, 0, 1])
    for reduction in ("mean_batch", "mean_volume", "mean"):
        whole = ctc_loss(log_probs, frames, targets, lengths, reduction=reduction)
        parts = [
            ctc_loss(
                log_probs[i : i + 2], frames[i : i + 2], targets[i : i + 2], lengths[i : i + 2], reduction=reduction
            )
            for i in (0, 2)
        ]
        torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)
        assert parts[0].count + parts[1].count == whole.count


def test_the_config_decodes_and_refuses_other_reductions():
    head, states, targets, lengths = CTCHead(8, 4), torch.randn(2, 7, 8), torch.zeros(2, 2).long(), torch.tensor([2, 1])
    given = head(states, torch.tensor([7, 5]))
    found = decode(CTCConfig, {"reduction": "mean_volume"}).build(head)(given, targets, lengths)
    expected = ctc_loss(given.x, given.x_len, targets, lengths, reduction="mean_volume")
    assert torch.equal(found.total, expected.total) and found.count == 3
    with pytest.raises(ConfigError, match="`reduction` must be one of"):
        decode(CTCConfig, {"reduction": "sum"})
