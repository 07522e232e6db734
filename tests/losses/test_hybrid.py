"""The hybrid loss is the weighted sum of its parts, and of those of inner layers."""

import pytest
import torch

from anemone.config import decode
from anemone.errors import ConfigError
from anemone.losses.ctc import CTCConfig
from anemone.losses.hybrid import HybridLossConfig
from anemone.losses.transducer import RNNTConfig, TDTConfig
from anemone.models.speech.transducer import HybridConfig

TEXT = torch.tensor([[1, 4, 2], [0, 3, 0]]), torch.tensor([3, 2])


def output_of(**settings):
    torch.manual_seed(0)
    tree = {"predictor": {"kind": "stateless", "d_model": 8}, "d_joint": 10, "dropout": 0.0, **settings}
    head = decode(HybridConfig, tree).build(d_model=6, vocab_size=5)
    x = torch.randn(2, 8, 6)
    return head, head(x, torch.tensor([8, 7]), *TEXT, torch.stack([x, -x]))


@pytest.mark.parametrize("reduction", ["mean_batch", "mean_volume"])
def test_it_is_the_weighted_sum_of_its_parts(reduction):
    head, output = output_of()
    first = RNNTConfig().build(head)(output, *TEXT)
    ctc = CTCConfig(reduction=reduction)
    second = ctc.build(head)(output, *TEXT)
    total, count = HybridLossConfig(ctc=ctc, ctc_weight=0.4).build(head)(output, *TEXT)
    mean = 0.6 * first.total / first.count + 0.4 * second.total / second.count
    torch.testing.assert_close(total / count, mean)
    inner = HybridLossConfig(ctc=ctc, ctc_weight=0.4, intermediate_weights=(0.3, 0.0)).build(head)(output, *TEXT)
    torch.testing.assert_close(inner.total / inner.count, 0.7 * mean + 0.3 * second.total / second.count)


def test_the_transducers_loss_is_that_of_its_head():
    head, output = output_of(durations=[0, 1, 2])
    found = HybridLossConfig(ctc_weight=0.0).build(head)(output, *TEXT)
    torch.testing.assert_close(found, TDTConfig().build(head)(output, *TEXT))
    with pytest.raises(ConfigError, match=r"`loss.kind` must be tdt for a head with durations"):
        HybridLossConfig(transducer=RNNTConfig()).build(head)


def test_shares_that_do_not_fit_are_refused():
    head, output = output_of()
    with pytest.raises(
        ConfigError, match=r"`loss\.intermediate_weights` must be as many as `model\.tap_layers`, which are 2"
    ):
        CTCConfig(intermediate_weights=(0.1,)).build(head)(output, *TEXT)
    with pytest.raises(ConfigError, match="`intermediate_weights` must be 0 or more each, and below 1 in all"):
        CTCConfig(intermediate_weights=(0.5, 0.5))
    with pytest.raises(ConfigError, match="`ctc_weight` must be between 0 and 1"):
        HybridLossConfig(ctc_weight=1.5)
    with pytest.raises(ConfigError, match=r"`ctc\.intermediate_weights` must be left out"):
        HybridLossConfig(ctc=CTCConfig(intermediate_weights=(0.1,)))
