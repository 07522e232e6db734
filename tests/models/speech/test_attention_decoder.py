"""The attention head: ports, padding, causality, its cache, gradients, compiling, and settings."""

import pytest
import torch

from anemone.config import decode, encode
from anemone.decoding.attention import attention_greedy
from anemone.errors import ConfigError
from anemone.models.speech.attention_decoder import AttentionHead, AttentionHeadConfig
from anemone.types import checked

STACK = {"num_heads": 2, "d_hidden": 24, "dropout": 0, "dropout_attention": 0, "dropout_scores": 0}
TREE = {"d_model": 16, "max_len": 30, "dropout_embedding": 0, "decoder": {"num_layers": 2, **STACK}}
VARIANTS = {
    "plain": {},
    "post": {"decoder": {"num_layers": 2, "pre_norm": False, "activation": "gelu", **STACK}, "positions": "learned"},
    "encoder": {"encoder": {"num_layers": 1, **STACK}, "tie": False, "vocab_multiple": 1},
    "causal": {"encoder": {"num_layers": 1, "causal": True, "pre_norm": False, **STACK}},
    "unnormed": {"decoder": {"num_layers": 1, "final_norm": False, **STACK}},
}


def head(name: str = "plain") -> AttentionHead:
    torch.manual_seed(0)
    return decode(AttentionHeadConfig, {**TREE, **VARIANTS[name]}).build(12, 19, end=3).eval()


def example() -> tuple[torch.Tensor, ...]:
    x = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[4, 5, 6, 7, 3], [4, 8, 9, 3, 0]])
    return x, torch.tensor([9, 5]), targets, torch.tensor([5, 4]), torch.tensor([2, 2])


@pytest.mark.parametrize("name", VARIANTS)
def test_ports_hold_and_padding_changes_nothing(name):
    whole, (x, x_len, targets, target_len, prompt_len) = head(name), example()
    with checked(whole), torch.no_grad():
        out = whole(x, x_len, targets, target_len, prompt_len)
        alone = whole(x[1:, :5], x_len[1:], targets[1:, :4], target_len[1:], prompt_len[1:])
    assert out.log_probs.shape == (2, 5, whole.num_labels) and out.log_probs.dtype == torch.float32
    torch.testing.assert_close(out.log_probs[1:, :4], alone.log_probs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_token_at_a_time_is_all_at_once(name):
    whole, (x, x_len, targets, *_) = head(name), example()
    with torch.no_grad():
        memory = whole.remember(x, x_len)
        together, _ = whole.step(whole.start(memory, x_len), targets)
        state, parts = whole.start(memory, x_len), []
        for u in range(targets.shape[1]):
            log_probs, state = whole.step(state, targets[:, u : u + 1])
            parts.append(log_probs)
    torch.testing.assert_close(torch.cat(parts, 1), together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_gets_a_gradient(name):
    whole = head(name).train()
    out = whole(*example())
    (out.log_probs[:, :-1].gather(2, out.targets[:, 1:, None])).sum().backward()
    assert not [n for n, p in whole.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_it_compiles_and_exports():
    whole, inputs = head("encoder"), example()
    with torch.no_grad():
        wanted = whole(*inputs).log_probs
        compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")(*inputs).log_probs
        exported = torch.export.export(whole, inputs).module()(*inputs)[2]
    torch.testing.assert_close(compiled, wanted)
    torch.testing.assert_close(exported, wanted)


def test_weights_may_be_tied():
    tied, untied = head(), head("encoder")
    assert tied.output.weight is tied.embedding.weight and untied.output.weight is not untied.embedding.weight


def test_canary_has_as_many_parameters_as_nemo_s():
    with torch.device("meta"):
        built = decode(AttentionHeadConfig, {"decoder": {"num_layers": 4}}).build(1024, 5248)
    layer = 4 * 2 * (1024**2 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 3 * 2 * 1024
    rest = 5248 * 1024 + 5248 + 2 * 1024 + 2 * 1024  # embedding, bias of the output, and two norms
    assert sum(p.numel() for p in built.parameters()) == 4 * layer + rest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": {"num_heads": 3}}, "`decoder.num_heads` must be a divisor of 16, but is 3 instead"),
        ({"d_model": 15}, "`d_model` must be an even number"),
        ({"max_len": 1}, "`max_len` must be 2 or more"),
        ({"decoder": {"dropout": 1.0}}, r"`decoder.dropout` must be in \[0, 1\)"),
        ({"decoder": {"layers": 1}}, "`decoder.layers` is not a setting"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        decode(AttentionHeadConfig, {**TREE, **change})


def test_a_config_is_read_back():
    config = decode(AttentionHeadConfig, {**TREE, **VARIANTS["encoder"]})
    assert decode(AttentionHeadConfig, encode(config)) == config


def test_states_of_another_width_need_the_projection():
    with pytest.raises(ConfigError, match="`project` must be true where widths differ"):
        decode(AttentionHeadConfig, {**TREE, "project": False}).build(12, 19)


def test_greedy_knows_no_other_utterance():
    whole, (x, x_len, targets, _, _) = head(), example()
    with torch.no_grad():
        out = whole(x, x_len, targets[:, :2], torch.tensor([2, 2]), torch.tensor([2, 1]))
        together = attention_greedy(whole, out, max_delta=4)
        for i, length in ((0, 2), (1, 1)):
            n = int(x_len[i])
            one = whole(x[i : i + 1, :n], x_len[i : i + 1], targets[i : i + 1, :length], *[torch.tensor([length])] * 2)
            (alone,) = attention_greedy(whole, one, max_delta=4)
            assert alone.tokens == together[i].tokens and alone.score == pytest.approx(together[i].score, abs=1e-4)
