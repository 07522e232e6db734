"""wav2vec 2.0: published sizes, padding that changes nothing, frames of 20 ms, masks of training."""

import pytest
import torch

from anemone.config import ConfigError, decode, encode
from anemone.models.speech.wav2vec2 import Wav2Vec2Config, stretches
from anemone.nn.heads import CTCHead
from anemone.types import checked

FORMS = {
    "base": {"size": "tiny"},
    "lv60": {"size": "tiny", "conv_norm": "channels", "conv_bias": True, "pre_norm": True, "position_kernel": 15},
}
STILL = dict.fromkeys(("dropout", "dropout_attention", "dropout_ffn", "dropout_out", "p_layer_drop"), 0.0)
STILL |= {"p_time_mask": 0.0}


def build(form, **settings):
    torch.manual_seed(1)
    return Wav2Vec2Config(**(FORMS[form] | settings)).build(1)


def batch():
    return torch.randn(3, 1, 4_000), torch.tensor([4_000, 2_345, 900])


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "parameters"), [("base", 94_396_320), ("large", 315_461_792), ("large_lv60", 315_471_520)]
)
def test_sizes_have_as_many_parameters_as_those_of_transformers(size, parameters):
    with torch.device("meta"):
        encoder = Wav2Vec2Config(size=size).build(1)
        assert count(encoder) + count(CTCHead(encoder.d_model, 31)) == parameters


@pytest.mark.parametrize("form", FORMS)
def test_real_tensors_match_the_ports_and_a_frame_takes_20_ms(form):
    encoder = build(form).eval()
    with checked(encoder):
        x, x_len = encoder(*batch())
    assert x.shape == (3, 12, 64)
    assert x_len.tolist() == [12, 7, 2]
    assert encoder.least == 400
    assert [int(encoder(torch.randn(1, 1, n), torch.tensor([n])).x_len) for n in (1, 400, 719, 720, 16_000)] == [
        *(1, 1, 1, 2, 49)
    ]


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_a_batch_equals_each_item_alone_whatever_stands_in_the_padding(form):
    encoder = build(form).eval()
    x, x_len = batch()
    together, lens = encoder(x.masked_fill(torch.arange(4_000) >= x_len[:, None, None], 1e4), x_len)
    for b, n in enumerate(lens):
        alone, _ = encoder(x[b : b + 1, :, : x_len[b]], x_len[b : b + 1])
        torch.testing.assert_close(together[b, :n], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_gets_a_gradient(form):
    encoder = build(form, p_time_mask=0.3, p_layer_drop=0.0)
    encoder(*batch()).x.square().sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [name for name in without if not name.endswith("key.bias")]  # it shifts all scores alike


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # the compiler does so itself, in torch 2.13
@pytest.mark.parametrize("form", FORMS)
def test_it_compiles_as_one_graph_for_training_and_exports(form):
    encoder = build(form, **STILL)
    x, x_len = batch()
    want = encoder(x, x_len).x
    got = torch.compile(encoder, fullgraph=True, backend="aot_eager")(x, x_len).x
    assert torch.allclose(got, want, atol=1e-5)
    got.square().sum().backward()
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        encoder.eval(), (x, x_len), dynamic_shapes={"x": {0: auto, 2: auto}, "x_len": {0: auto}}
    )
    x, x_len = torch.randn(2, 1, 6_000), torch.tensor([6_000, 5_000])
    assert torch.allclose(program.module()(x, x_len).x, encoder(x, x_len).x, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_masks_and_layers_that_are_left_out_compile_too():
    encoder = build("base", p_time_mask=0.5, p_channel_mask=0.3, p_layer_drop=0.5)
    out = torch.compile(encoder, fullgraph=True, backend="aot_eager")(*batch()).x
    assert out.isfinite().all()


def test_masks_hide_as_much_as_they_should():
    torch.manual_seed(1)
    hidden = stretches(torch.tensor([1000, 500, 8]), 1000, 0.5, width=10, least=2)
    assert 0.3 < hidden[0].float().mean() < 0.5  # they overlap
    assert not hidden[1, 500:].any() and hidden[1].sum() > 100
    assert not hidden[2].any()  # there is no room for one
    assert stretches(torch.tensor([100]), 100, 1e-6, width=10, least=2).sum() > 10  # the least number


def test_training_sees_another_waveform_and_evaluation_does_not():
    encoder = build("base", **STILL | {"p_time_mask": 0.5})
    assert not torch.equal(encoder(*batch()).x[0], encoder.eval()(*batch()).x[0])
    x = batch()
    assert torch.equal(encoder(*x).x, encoder(*x).x)


def test_a_config_goes_to_a_tree_and_back():
    config = decode(Wav2Vec2Config, {"size": "tiny", "conv_kernels": [3] * 7})
    assert decode(Wav2Vec2Config, encode(config)) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 5}, "`num_heads` must be a divisor of 64, but is 5 instead"),
        ({"position_groups": 3}, "`position_groups` must be a divisor of 64, but is 3"),
        ({"conv_kernels": (3,)}, "`conv_kernels` must be 7 numbers of 1 or more, as many as `conv_widths`"),
        ({"p_time_mask": 1.0}, "`p_time_mask` must be at least 0 and below 1, but is 1.0"),
        ({"d_ff": 0}, r"`d_ff` must be in 1\.\."),
    ],
)
def test_bad_settings_are_refused_with_the_right_words(settings, message):
    with pytest.raises(ConfigError, match=message):
        Wav2Vec2Config(size="tiny", **settings)


def test_features_that_are_no_waveform_are_refused():
    with pytest.raises(ConfigError, match="`features` must be of the kind `waveform`, one number wide, but is 80"):
        Wav2Vec2Config(size="tiny").build(80)
