"""What every encoder of speech features does: ports, padding, gradients, compilation, export, one table of kinds."""

import pytest
import torch

from anemone.config import ConfigError, decode, encode, load_class
from anemone.losses import LOSSES
from anemone.models import HEADS, MODELS
from anemone.nn.heads import CTCHead
from anemone.types import Chain, PortError, checked

BLOCKS = [
    {"d_model": 24, "kernel": 5, "stride": 2, "dropout": 0.1},
    {"d_model": 16, "kernel": 7, "dilation": 2, "residual": True, "repeat": 2},
    {"d_model": 48, "kernel": 1, "separable": False},
]
LAYERS = {"size": "custom", "num_layers": 2, "d_model": 48, "num_heads": 2, "kernel": 5, "ff_factor": 2}
SMALL = {  # kind -> settings of a net that is quick to test
    "quartznet": {"size": "custom", "blocks": BLOCKS},
    "matchboxnet": {"size": "custom", "blocks": [{**block, "stride": 1} for block in BLOCKS]},
    "citrinet": {
        "size": "custom",
        "blocks": [
            {"d_model": 24, "kernel": 5, "se_reduction": 4},
            {"d_model": 24, "kernel": 5, "repeat": 2, "stride": 2, "stride_last": True, "residual": True}
            | {"se_reduction": 4, "se_context": 9, "activation": "silu", "look_ahead": 1, "dropout": 0.1},
            {"d_model": 48, "kernel": 3, "stride": 2, "residual": True, "merge": "max", "heads": 8, "groups": 4},
        ],
    },
    "jasper": {
        "size": "custom",
        "blocks": [
            {"d_model": 24, "kernel": 5, "stride": 2, "separable": False, "activation": "gelu"},
            {"d_model": 16, "kernel": 3, "separable": False, "residual": True, "dense": True, "repeat": 2},
            {"d_model": 24, "kernel": 3, "separable": False, "residual": True, "dense": True, "groups": 4},
            {"d_model": 48, "kernel": 1, "separable": False, "look_ahead": 0, "activation": "selu"},
        ],
    },
    "conformer": LAYERS,
    "fastconformer": {**LAYERS, "attention": {"contexts": [[6, 2]]}},
}
STRIDES = {"quartznet": 2, "matchboxnet": 1, "citrinet": 4, "jasper": 2, "conformer": 4, "fastconformer": 8}
ELSEWHERE = {"wav2vec2", "whisper"}  # of other inputs: each has a test file
SMALL_HEADS = {  # kind -> settings
    "attention": {"d_model": 16, "decoder": {"num_layers": 1, "num_heads": 2, "d_hidden": 32}},
    "ctc": {},
    "hybrid": {"predictor": {"kind": "lstm", "d_model": 16}, "d_joint": 16},
    "transducer": {"predictor": {"kind": "stateless", "d_model": 16}, "d_joint": 16, "durations": [0, 1, 2]},
}
CONVOLUTIONAL = [kind for kind, settings in SMALL.items() if "blocks" in settings]
BINS = 20


STILL = {"dropout": 0.0, "dropout_input": 0.0, "dropout_attention": 0.0}


def build(kind, **changes):
    torch.manual_seed(1)
    return decode(load_class(MODELS[kind]), SMALL[kind] | changes).build(BINS)


def lively(encoder):
    """In evaluation mode, with statistics that are not those of a fresh net."""
    for name, buffer in encoder.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return encoder.eval()


def batch():
    return torch.randn(3, BINS, 41), torch.tensor([41, 30, 17])


def test_every_kind_is_tested():
    assert set(SMALL) | ELSEWHERE == {kind for kind, name in MODELS.items() if ".speech." in name}


@pytest.mark.parametrize("kind", SMALL)
def test_real_tensors_match_the_ports(kind):
    encoder = build(kind)
    with checked(encoder):
        x, x_len = encoder(*batch())
    stride = STRIDES[kind]
    assert x.shape == (3, -(-41 // stride), encoder.d_model)
    assert x_len.tolist() == [-(-n // stride) for n in (41, 30, 17)]


@pytest.mark.parametrize("kind", SMALL)
def test_a_batch_equals_each_item_alone_on_valid_frames(kind):
    """In evaluation mode: in training mode batch normalisation is over the batch."""
    encoder = lively(build(kind))
    x, x_len = batch()
    together, lens = encoder(x, x_len)
    for b, n in enumerate(lens):
        alone, _ = encoder(x[b : b + 1, :, : x_len[b]], x_len[b : b + 1])
        assert torch.allclose(together[b, :n], alone[0], atol=1e-5)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("training", [True, False])
def test_what_stands_in_the_padding_changes_nothing(kind, training):
    encoder = build(kind).train(training)
    x, x_len = batch()
    dirty = x.masked_fill(torch.arange(41) >= x_len[:, None, None], 1e4)
    torch.manual_seed(3)
    want = encoder(x, x_len).x
    torch.manual_seed(3)
    assert torch.equal(encoder(dirty, x_len).x, want)


@pytest.mark.parametrize("kind", SMALL)
def test_every_parameter_gets_a_gradient(kind):
    encoder = build(kind)
    encoder(*batch()).x.pow(3).sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # the compiler does so itself, in torch 2.13
@pytest.mark.parametrize("kind", SMALL)
def test_it_compiles_as_one_graph_for_training(kind):
    encoder = build(kind, **({} if kind in CONVOLUTIONAL else STILL))  # compiled dropout draws other numbers
    if kind in CONVOLUTIONAL:
        for block in encoder.blocks:
            block.dropout = 0.0
    x, x_len = batch()
    want = encoder(x, x_len).x
    gradients = torch.autograd.grad(want.pow(3).sum(), list(encoder.parameters()))
    got = torch.compile(encoder, fullgraph=True, backend="aot_eager")(x, x_len).x
    assert torch.allclose(got, want, atol=1e-5)
    got.pow(3).sum().backward()
    # before a normalisation a bias has none: what stands there is the rounding of sums that cancel, some 1e-7 of each
    # of thousands of terms
    scale = max(gradient.abs().max().item() for gradient in gradients)
    for (name, p), gradient in zip(encoder.named_parameters(), gradients, strict=True):
        assert torch.allclose(p.grad, gradient, rtol=1e-4, atol=1e-5 * scale + 1e-4 * gradient.abs().max()), name


@torch.no_grad()
@pytest.mark.parametrize("kind", SMALL)
def test_it_compiles_as_one_graph_for_inference(kind):
    encoder = lively(build(kind))
    x, x_len = batch()
    got = torch.compile(encoder, fullgraph=True, backend="aot_eager")(x, x_len).x
    assert torch.allclose(got, encoder(x, x_len).x, atol=1e-5)


@pytest.mark.parametrize("kind", SMALL)
def test_it_exports_for_any_batch_and_length(kind):
    encoder = lively(build(kind))
    auto = torch.export.Dim.AUTO
    sizes = {"x": {0: auto, 2: auto}, "x_len": {0: auto}}
    program = torch.export.export(encoder, batch(), dynamic_shapes=sizes)
    assert not [n for n in program.graph.nodes if "autograd" in str(n.target)]
    x, x_len = torch.randn(2, BINS, 77), torch.tensor([77, 50])
    got, want = program.module()(x, x_len), encoder(x, x_len)
    assert torch.allclose(got.x, want.x, atol=1e-5)
    assert torch.equal(got.x_len, want.x_len)


@pytest.mark.parametrize("kind", SMALL)
def test_it_chains_with_a_head_of_its_width_only(kind):
    encoder = build(kind)
    out = Chain(encoder=encoder, head=CTCHead(encoder.d_model, 5))(*batch())
    assert out.x.shape[2] == 6
    with pytest.raises(
        PortError, match=r"`head.x` wants .*D=47.*, but `encoder.x` gives .*D=48.*: axis `D` is 48 wide"
    ):
        Chain(encoder=encoder, head=CTCHead(47, 5))


@pytest.mark.parametrize("kind", SMALL)
def test_autocast_stays_close_and_gradients_stay_float32(kind):
    encoder = lively(build(kind))
    x, x_len = batch()
    want = encoder(x, x_len).x
    with torch.autocast("cpu", torch.bfloat16):
        got = encoder(x, x_len).x
    assert (got.float() - want).norm() < 0.05 * want.norm()
    got.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in encoder.parameters())


@pytest.mark.parametrize("kind", SMALL)
def test_a_config_goes_to_a_tree_and_back(kind):
    cls = load_class(MODELS[kind])
    for tree in (SMALL[kind], {}):
        config = decode(cls, tree)
        assert decode(cls, encode(config)) == config


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "9x9"}, r"`size` must be one of \[.*\], but is '9x9' instead"),
        ({"blocks": []}, r"`blocks` must be given where `size` is \"custom\", and only there, but is \(\) instead"),
        ({"size": None}, r"`size` must be one of"),
        ({"dropout": 0.1}, r"`dropout` must be left out where `blocks` are given, but is 0.1 instead"),
        ({"dropout": 1.0}, r"`dropout` must be at least 0 and below 1, but is 1.0 instead"),
        ({"sise": "custom"}, r"`sise` is not a setting of \w+Config. Did you mean `size`"),
        ({"blocks": [{"d_model": 8}]}, r"`blocks\[0\].kernel` must be set"),
        ({"blocks": [{"d_model": 0, "kernel": 3}]}, r"`blocks\[0\].d_model` must be in 1\.\.65536, but is 0 instead"),
        ({"blocks": [{"d_model": 8, "kernel": 10**9 + 1}]}, r"`blocks\[0\].kernel` must be in 1\.\.65536"),
        ({"blocks": [{"d_model": 8, "kernel": 33, "dilation": 3000}]}, r"`blocks\[0\].dilation` must be such that a"),
        ({"blocks": [{"d_model": 8, "kernel": 3, "dropout": float("nan")}]}, r"`blocks\[0\].dropout` must be a finite"),
        ({"blocks": [{"d_model": 8, "kernel": 4}]}, r"`blocks\[0\].kernel` must be odd, but is 4 instead"),
        ({"blocks": [{"d_model": 8, "kernel": 3, "repeat": 0}]}, r"`blocks\[0\].repeat` must be in 1\.\.1000"),
        (
            {"blocks": [{"d_model": 8, "kernel": 3, "stride": 2, "residual": True, "repeat": 2}]},
            r"`blocks\[0\].stride` must be 1 in a residual block of several convolutions, unless `stride_last` is set",
        ),
        (
            {"blocks": [{"d_model": 8, "kernel": 1, "separable": False, "heads": 2}]},
            r"`blocks\[0\].heads` must be null but for separable convolutions, but is 2 instead",
        ),
        (
            {"blocks": [{"d_model": 8, "kernel": 1, "dense": True}]},
            r"`blocks\[0\].dense` must be false in a block that",
        ),
        (
            {"blocks": [{"d_model": 8, "kernel": 1, "groups": 3}]},
            r"`blocks\[0\].groups` must be a divisor of `d_model`",
        ),
        (
            {"blocks": [{"d_model": 8, "kernel": 1, "norm_groups": 3}]},
            r"`blocks\[0\].norm_groups` must be a divisor of",
        ),
        ({"blocks": [{"d_model": 8, "kernel": 1, "se_reduction": 9}]}, r"`blocks\[0\].se_reduction` must be `d_model`"),
        ({"blocks": [{"d_model": 8, "kernel": 1, "se_context": 0}]}, r"`blocks\[0\].se_context` must be in 1\.\.65536"),
        (
            {"blocks": [{"d_model": 8, "kernel": 3, "dropout": -0.1}]},
            r"`blocks\[0\].dropout` must be at least 0 and below 1, but is -0.1 instead",
        ),
    ],
    ids=str,
)
def test_bad_settings_are_refused_with_the_right_words(kind, change, message):
    with pytest.raises(ConfigError, match=message):
        decode(load_class(MODELS[kind]), {**SMALL[kind], **change})


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_blocks_beside_a_named_size_are_refused(kind):
    with pytest.raises(ConfigError, match='`blocks` must be given where `size` is "custom", and only there'):
        decode(load_class(MODELS[kind]), {"blocks": BLOCKS[:1]})


def test_every_head_is_tested():
    assert set(SMALL_HEADS) == set(HEADS)


@pytest.mark.parametrize("encoder", ["conformer", "fastconformer", "citrinet"])
@pytest.mark.parametrize("kind", SMALL_HEADS)
def test_every_head_fits_encoders_and_its_usual_loss_teaches_all_weights(kind, encoder):
    config, states = decode(load_class(HEADS[kind]), SMALL_HEADS[kind]), build(encoder)
    chain = Chain(encoder=states, head=config.build(states.d_model, 6)).eval()
    criterion = load_class(LOSSES[config.losses[0]])().build(chain.head)
    targets, target_len = torch.tensor([[1, 2], [3, 0], [4, 4]]), torch.tensor([2, 1, 2])
    inputs = dict(zip(chain.inputs, (*batch(), targets, target_len, torch.ones_like(target_len)), strict=False))
    with checked(chain.encoder), checked(chain.head):
        total, count = criterion(chain(**inputs), targets, target_len)
    assert total.isfinite() and count > 0
    total.backward()
    assert not [name for name, p in chain.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
