"""Conformers: NeMo's numbers for every group of settings; padding, compilation, export; sizes; refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

import anemone
from anemone.checkpoint.nemo import read_nemo, tensor_names
from anemone.config import ConfigError, decode, encode, load_class
from anemone.models import MODELS
from anemone.models.speech.conformer import ConformerConfig
from anemone.models.speech.fastconformer import FastConformerConfig
from anemone.nn.context import in_context
from anemone.nn.heads import CTCHead
from anemone.types import Chain, checked

GOLDEN = Path(__file__).parents[2] / "golden/parity/conformer_options"
ARCHIVES = sorted(path.stem for path in GOLDEN.glob("*.nemo"))
BINS = 20
TINY = {"size": "custom", "num_layers": 2, "d_model": 16, "num_heads": 2, "kernel": 5, "dropout": 0.0}
TINY |= {"dropout_input": 0.0, "dropout_attention": 0.0, "ff_factor": 2}
LOCAL = {"positions": "local", "contexts": [[3, 2]], "num_global": 2, "global_spacing": 2}
KINDS = {
    "striding": ("conformer", {}),
    "dw_striding": ("fastconformer", {}),
    "vggnet": ("conformer", {"subsampling": {"kind": "vggnet"}}),
    "striding_conv1d": ("conformer", {"subsampling": {"kind": "striding_conv1d", "causal": True}}),
    "dw_striding_conv1d": ("conformer", {"subsampling": {"kind": "dw_striding_conv1d"}}),
    "stacking_norm": ("conformer", {"subsampling": {"kind": "stacking_norm"}, "norm": "group", "norm_groups": 4}),
    "none": ("conformer", {"subsampling": {"kind": "none", "factor": 1}, "norm": "instance", "kernel_past": 4}),
    "absolute": ("conformer", {"attention": {"positions": "absolute"}, "norm": "layer", "bias": False, "d_out": 12}),
    "local": ("conformer", {"attention": LOCAL}),
    "separate": ("conformer", {"attention": LOCAL | {"global_separate": True}}),
    "chunked": ("fastconformer", {"attention": {"contexts": [[4, 1]], "chunked": True, "tied": True}}),
    "reduced": ("conformer", {"reduction": {"after": 0}, "norm": "affine"}),
    "strided": ("conformer", {"reduction": {"kind": "striding"}}),
}


def build(name):
    kind, settings = KINDS[name]
    torch.manual_seed(1)
    return decode(load_class(MODELS[kind]), TINY | settings).build(BINS)


def batch():
    return torch.randn(3, BINS, 61), torch.tensor([61, 43, 30])


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_gives_the_golden_states_and_gradients(name):
    path, data = GOLDEN / f"{name}.nemo", np.load(GOLDEN / "reference.npz")
    task = anemone.load(path)
    names = tensor_names(read_nemo(path).config)
    assert set(names) == set(task.network.state_dict())
    assert len(set(names.values())) == len(names)
    want = {key.split(".")[1]: torch.from_numpy(data[key]) for key in data.files if key.startswith(f"{name}.")}
    mel = task.network.features(torch.from_numpy(data["signal"]), torch.from_numpy(data["signal_len"]))
    with checked(task.network.encoder), torch.no_grad():
        encoded = task.network.encoder(*mel)
    assert torch.equal(encoded.x_len, want["len"])
    keep = (torch.arange(encoded.x.shape[1]) < want["len"][:, None]).unsqueeze(2)
    assert ((encoded.x - want["encoded"]) * keep).abs().max() < 1e-5
    assert ((task.network.head(*encoded).x - want["log_probs"]) * keep).abs().max() < 1e-5
    if "norm" in want:
        encoder = task.network.encoder.train()
        x = encoder(*mel).x.transpose(1, 2)
        wave = torch.cos(torch.arange(x.numel()).view_as(x).float())
        (x * wave * keep.transpose(1, 2)).sum().backward()
        norm = torch.stack([p.grad.norm() for p in encoder.parameters()]).norm()
        assert norm == pytest.approx(want["norm"].item(), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_padding_changes_nothing(name):
    encoder = build(name).eval()
    x, x_len = batch()
    with checked(encoder):
        together, lens = encoder(x, x_len)
    dirty = x.masked_fill(torch.arange(61) >= x_len[:, None, None], 1e4)
    again = encoder(dirty, x_len).x
    for b, n in enumerate(lens):
        alone, alone_len = encoder(x[b : b + 1, :, : x_len[b]], x_len[b : b + 1])
        assert alone_len == n
        assert torch.allclose(together[b, :n], alone[0, :n], atol=2e-5)
        assert torch.allclose(together[b, :n], again[b, :n], atol=2e-5)


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_gets_a_gradient(name):
    encoder = build(name)
    x = encoder(*batch()).x
    (x * torch.randn_like(x)).sum().backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # the compiler does so itself, in torch 2.13
@pytest.mark.parametrize("name", ["dw_striding", "local", "chunked"])
def test_it_compiles_as_one_graph_with_the_same_gradients(name):
    encoder = build(name)
    x, x_len = batch()
    want = encoder(x, x_len).x
    gradients = torch.autograd.grad(want.square().sum(), list(encoder.parameters()))
    got = torch.compile(encoder, fullgraph=True, backend="aot_eager")(x, x_len).x
    assert torch.allclose(got, want, atol=1e-5)
    got.square().sum().backward()
    for (parameter, p), gradient in zip(encoder.named_parameters(), gradients, strict=True):
        assert torch.allclose(p.grad, gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item() + 1e-4), parameter


@pytest.mark.parametrize("name", ["dw_striding", "absolute", "chunked"])
def test_it_exports_for_any_batch_and_length(name):
    encoder = build(name).eval()
    auto = torch.export.Dim.AUTO
    program = torch.export.export(encoder, batch(), dynamic_shapes={"x": {0: auto, 2: auto}, "x_len": {0: auto}})
    x, x_len = torch.randn(2, BINS, 77), torch.tensor([77, 50])
    got, want = program.module()(x, x_len), encoder(x, x_len)
    assert torch.allclose(got.x, want.x, atol=1e-5)
    assert torch.equal(got.x_len, want.x_len)


@pytest.mark.parametrize(
    ("cls", "size", "parameters"),
    [
        (ConformerConfig, "small", 12_984_113),  # NeMo's, with a head of 64 sub-words
        (ConformerConfig, "medium", 30_522_177),
        (ConformerConfig, "large", 121_468_481),
        (FastConformerConfig, "small", 12_399_265),
        (FastConformerConfig, "medium", 26_145_345),
        (FastConformerConfig, "large", 108_795_457),
        (FastConformerConfig, "xlarge", 607_815_745),
        (FastConformerConfig, "xxlarge", 1_061_384_257),
    ],
)
def test_sizes_have_as_many_parameters_as_nemos(cls, size, parameters):
    with torch.device("meta"):
        encoder = cls(size=size).build(num_features=80)
        head = CTCHead(encoder.d_model, 64)
    assert sum(p.numel() for module in (encoder, head) for p in module.parameters()) == parameters


def test_inner_layers_come_out_where_they_are_asked_for():
    encoder = decode(ConformerConfig, TINY | {"tap_layers": [0, 1], "d_out": 12}).build(BINS).eval()
    with checked(encoder):
        out = encoder(*batch())
    assert out.inner.shape == (2, 3, 16, 12)
    assert torch.equal(out.inner[1], out.x)
    assert Chain(encoder=encoder, head=CTCHead(12, 5))(*batch()).x.shape == (3, 16, 6)


def test_training_draws_one_of_several_contexts_by_their_shares():
    contexts = [[0, 0], [-1, -1], [4, 1]]
    attention = {"contexts": contexts, "shares": [0.5, 0.0, 0.5], "chunked": False}
    encoder = decode(ConformerConfig, TINY | {"attention": attention}).build(BINS)
    drawn = {tuple(encoder.draw(torch.device("cpu")).tolist()) for _ in range(60)}
    assert drawn == {(0, 0), (4, 1)}
    assert encoder.eval().draw(torch.device("cpu")) == (0, 0)
    encoder.context = 2
    assert encoder.draw(torch.device("cpu")) == (4, 1)


def test_a_limited_context_sees_so_far_and_a_chunk_whole_chunks():
    near = in_context(6, (2, 1), False, torch.device("cpu"))[0].int().tolist()
    assert near[3] == [0, 1, 1, 1, 1, 0]
    chunks = in_context(6, (2, 1), True, torch.device("cpu"))[0].int().tolist()
    assert chunks[2] == chunks[3] == [1, 1, 1, 1, 0, 0]
    assert chunks[5] == [0, 0, 1, 1, 1, 1]


def test_stochastic_depth_passes_over_layers_in_training_only():
    settings = TINY | {"stochastic_depth": 0.5, "stochastic_mode": "uniform", "norm": "layer"}
    encoder = decode(ConformerConfig, settings).build(BINS)
    x, x_len = batch()
    torch.manual_seed(0)
    assert len({round(encoder(x, x_len).x.abs().sum().item(), 2) for _ in range(20)}) == 2
    encoder.eval()
    assert torch.equal(encoder(x, x_len).x, encoder(x, x_len).x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "huge"}, r"`size` must be one of"),
        ({"num_layers": None}, r'`num_layers` must be given where `size` is "custom"'),
        ({"kernel": 4}, r"`kernel` must be odd, but is 4 instead"),
        ({"num_heads": 3}, r"`num_heads` must be a divisor of 16, but is 3 instead"),
        ({"dropout": 1.0}, r"`dropout` must be at least 0 and below 1"),
        ({"kernel_past": 5}, r"`kernel_past` must be in 0\.\.4, but is 5 instead"),
        ({"tap_layers": [2]}, r"`tap_layers` must be in 0\.\.1"),
        ({"subsampling": {"factor": 6}}, r"`subsampling.factor` must be a power of 2, but is 6 instead"),
        ({"subsampling": {"kind": "vggnet", "causal": True}}, r"`subsampling.causal` must be false where"),
        ({"attention": {"positions": "local"}}, r"`attention.contexts` must be one with ends"),
        ({"attention": {"contexts": [[3, 1]], "chunked": True}}, r"`attention.contexts\[0\]` must be whole chunks"),
        ({"attention": {"num_global": 1}}, r"`attention.num_global` must be 0 unless"),
        ({"attention": {"shares": [0.5]}}, r"`attention.shares` must be 1 that sum to 1"),
        ({"reduction": {"factor": 3}}, r"`reduction.factor` must be a power of 2"),
        ({"layers": 3}, r"`layers` is not a setting of ConformerConfig"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_with_the_right_words(change, message):
    with pytest.raises(ConfigError, match=message):
        decode(ConformerConfig, TINY | change)


def test_a_config_goes_to_a_tree_and_back():
    for cls in (ConformerConfig, FastConformerConfig):
        for tree in ({}, TINY):
            config = decode(cls, tree)
            assert decode(cls, encode(config)) == config
