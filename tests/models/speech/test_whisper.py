"""Whisper's encoder: published sizes, half a minute always, compilation and export."""

import pytest
import torch

from anemone.config import ConfigError, decode, encode
from anemone.models.speech.whisper import WhisperConfig, sinusoids
from anemone.types import checked


def build(**settings):
    torch.manual_seed(1)
    return WhisperConfig(size="mini", **settings).build(20)


def batch():
    return torch.randn(2, 20, 200), torch.tensor([200, 200])


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "num_mels", "tokens", "layers", "parameters"),
    [
        ("tiny", 80, 51_864, None, 37_760_256),  # tiny.en
        ("tiny", 80, 51_865, None, 37_760_640),
        ("base", 80, 51_865, None, 72_593_920),
        ("small", 80, 51_865, None, 241_734_912),
        ("medium", 80, 51_865, None, 763_857_920),
        ("large", 80, 51_865, None, 1_543_304_960),
        ("large", 128, 51_866, None, 1_543_490_560),  # large-v3
        ("large", 128, 51_866, 4, 808_878_080),  # large-v3-turbo
    ],
)
def test_sizes_have_as_many_parameters_as_those_of_transformers(size, num_mels, tokens, layers, parameters):
    config = WhisperConfig(size=size)
    with torch.device("meta"):
        encoder, head = config.build(num_mels), config.head(layers).build(config.shape.d_model, tokens)
    assert count(encoder) + count(head) == parameters


def test_real_tensors_match_the_ports_and_all_frames_are_valid():
    encoder = build()
    with checked(encoder):
        x, x_len = encoder(torch.randn(2, 20, 150), torch.tensor([150, 30]))
    assert x.shape == (2, 100, 32)
    assert x_len.tolist() == [100, 100]


def test_every_parameter_but_the_places_gets_a_gradient():
    encoder = build()
    encoder(*batch()).x.square().mean().backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == ["positions"]
    assert torch.equal(encoder.positions, sinusoids(100, 32))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # the compiler does so itself, in torch 2.13
def test_it_compiles_as_one_graph_and_exports():
    encoder = build()
    want = encoder(*(x := batch())).x
    got = torch.compile(encoder, fullgraph=True, backend="aot_eager")(*x).x
    assert torch.allclose(got, want, atol=1e-5)
    got.square().sum().backward()
    auto = torch.export.Dim.AUTO
    program = torch.export.export(encoder.eval(), x, dynamic_shapes={"x": {0: auto}, "x_len": {0: auto}})
    more = torch.randn(3, 20, 200), torch.tensor([200] * 3)
    assert torch.allclose(program.module()(*more).x, encoder(*more).x, atol=1e-5)


def test_layers_that_are_left_out_change_training_only():
    encoder = build(p_layer_drop=0.9)
    x = batch()
    outs = [encoder(*x).x for _ in range(6)]
    assert any(not torch.equal(outs[0], out) for out in outs[1:])
    encoder.eval()
    assert torch.equal(encoder(*x).x, encoder(*x).x)


def test_places_are_sines_then_cosines():
    places = sinusoids(50, 8)
    assert torch.allclose(places[:, 0], torch.arange(50.0).sin(), atol=1e-5)
    assert torch.allclose(places[:, 7], (torch.arange(50.0) / 10_000).cos(), atol=1e-5)


def test_a_config_goes_to_a_tree_and_back():
    config = decode(WhisperConfig, {"size": "tiny", "dropout": 0.1})
    assert decode(WhisperConfig, encode(config)) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 5}, "`num_heads` must be a divisor of 32, but is 5 instead"),
        ({"d_model": 2}, "`d_model` must be even and 4 or more, but is 2"),
        ({"dropout": -0.1}, "`dropout` must be at least 0 and below 1"),
        ({"max_len": 0}, r"`max_len` must be in 1\.\."),
    ],
)
def test_bad_settings_are_refused_with_the_right_words(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_more_frames_than_places_are_refused():
    with pytest.raises(ConfigError, match="`features` must be at most 200 frames long for this encoder, but is 201"):
        build()(torch.randn(1, 20, 201), torch.tensor([201]))
