"""Cross entropy over the tokens of a text: which count, and what smoothing does."""

import pytest
import torch
from torch.nn import functional as F

from anemone.losses.attention import attention_loss

LOG_PROBS = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
TARGETS, LENGTHS = torch.tensor([[1, 2, 3, 4, 5], [6, 5, 4, 0, 0]]), torch.tensor([5, 3])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_is_pytorch_s_cross_entropy_of_what_follows(smoothing):
    total, count = attention_loss(LOG_PROBS, TARGETS, torch.ones(2), LENGTHS, label_smoothing=smoothing)
    labels = TARGETS[:, 1:].clone()
    labels[1, 2:] = -100
    share = smoothing * 7 / 6  # PyTorch smooths over all labels, the true one among them
    wanted = F.cross_entropy(LOG_PROBS[:, :-1].transpose(1, 2), labels, reduction="sum", label_smoothing=share)
    torch.testing.assert_close(total, wanted)
    assert count == 6


def test_what_stands_before_the_beginning_does_not_count():
    total, count = attention_loss(LOG_PROBS, TARGETS, torch.tensor([3, 2]), LENGTHS)
    wanted = -(LOG_PROBS[0, 2, 4] + LOG_PROBS[0, 3, 5] + LOG_PROBS[1, 1, 4])
    torch.testing.assert_close(total, wanted)
    assert count == 3
