"""Heads: probabilities sum to one, pooling sees valid frames, float32 comes out."""

from typing import get_args

import pytest
import torch

from anemone.nn.heads import ClassificationHead, CTCHead, Pooling
from anemone.types import checked

POOLINGS = get_args(Pooling)
SAFE = [p for p in POOLINGS if not p.endswith("_padded")]


def test_ctc_gives_log_probabilities_with_the_blank_last():
    head = CTCHead(d_model=8, vocab_size=28)
    with checked(head):
        x, x_len, inner = head(torch.randn(2, 5, 8), torch.tensor([5, 3]))
    assert x.shape == (2, 5, 29) and head.blank == 28
    assert torch.allclose(x.exp().sum(-1), torch.ones(2, 5))
    assert x_len.tolist() == [5, 3] and inner is None


def test_ctc_reads_inner_layers_as_it_reads_the_last():
    head, states = CTCHead(d_model=8, vocab_size=28), torch.randn(2, 3, 5, 8)
    with checked(head):
        x, _x_len, inner = head(states[1], torch.tensor([5, 3, 4]), states)
    assert inner.shape == (2, 3, 5, 29) and torch.allclose(inner[1], x, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_gives_one_row_of_scores_and_gradients(pooling):
    head = ClassificationHead(8, 3, pooling=pooling)
    x = torch.randn(2, 5, 8)
    with checked(head):
        logits = head(x, torch.tensor([5, 3]))
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_counts_only_where_the_name_says_so(pooling):
    head = ClassificationHead(8, 3, pooling=pooling)
    x, x_len = torch.randn(2, 5, 8), torch.tensor([5, 3])
    dirty = x.clone()
    dirty[1, 3:] = 1e3
    same = torch.allclose(head(x, x_len), head(dirty, x_len))
    alone = torch.allclose(head(x, x_len)[1], head(x[1:, :3], x_len[1:])[0], atol=1e-6)
    assert (same, alone) == ((True, True) if pooling in SAFE else (False, False))


@pytest.mark.parametrize("pooling", ["average", "attentive"])
def test_a_mean_of_equal_frames_is_that_frame(pooling):
    head = ClassificationHead(8, 3, pooling=pooling)
    frame = torch.randn(8)
    got = head(frame.expand(1, 6, 8), torch.tensor([4]))
    assert torch.allclose(got[0], head.linear(frame), atol=1e-6)


def test_attention_can_pick_one_frame():
    head = ClassificationHead(2, 2, pooling="attentive")
    with torch.no_grad():
        head.attention[0].weight.copy_(torch.eye(2))
        head.attention[0].bias.zero_()
        head.attention[2].weight.copy_(torch.tensor([[1000.0, 0.0]]))
    x = torch.tensor([[[0.0, 5.0], [1.0, 7.0], [0.0, 9.0]]])
    assert torch.allclose(head(x, torch.tensor([3]))[0], head.linear(torch.tensor([1.0, 7.0])), atol=1e-5)


def test_outputs_are_float32_under_autocast():
    x, x_len = torch.randn(2, 5, 8), torch.tensor([5, 3])
    with torch.autocast("cpu", torch.bfloat16):
        assert CTCHead(8, 4)(x, x_len).x.dtype == torch.float32
        for pooling in POOLINGS:
            assert ClassificationHead(8, 3, pooling=pooling)(x, x_len).dtype == torch.float32


def test_an_unknown_pooling_is_our_own_mistake():
    with pytest.raises(AssertionError, match="mean"):
        ClassificationHead(8, 3, pooling="mean")
