"""Llama computes what `transformers` computes with the same weights; its parts are it; its settings are checked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from anemone.checkpoint.huggingface import read_huggingface
from anemone.config import ConfigError, decode, encode, load_class
from anemone.losses.token_cross_entropy import token_cross_entropy
from anemone.models import MODELS
from anemone.models.text.llama import SIZES, LlamaConfig
from anemone.types import IGNORED, checked

GOLDEN = Path(__file__).parents[2] / "golden/llama"
FAMILIES = ["grouped", "tied", "scaled", "window", "experts"]
SMALL = {"size": "custom", "d_model": 32, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "d_ff": 48}


def config(**changes):
    return decode(LlamaConfig, {**SMALL, **changes})


def build(seed=0, **changes):
    torch.manual_seed(seed)
    return config(**changes).build(vocab_size=50)


def batch(n=20):
    tokens = torch.randint(50, (2, n), generator=torch.Generator().manual_seed(1))
    return tokens, torch.arange(n).expand(2, n)


def published(family):
    """A model with weights of `transformers`, what that computes, and the tokens."""
    stored = read_huggingface(GOLDEN / family)
    model = decode(LlamaConfig, {k: v for k, v in stored.model.items() if k != "kind"}).build(stored.vocab_size)
    stored.read_into(dict(model.named_parameters()))
    reference = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / family / "reference.npz").items()}
    return model, reference, stored


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family):
    """Within 1e-5 of logits of up to 4.5, in float32."""
    model, reference, _ = published(family)
    tokens = reference["tokens"]
    with torch.no_grad(), checked(model):
        logits = model(tokens, torch.arange(40).expand(2, 40))
    assert logits.abs().max() > 4
    assert torch.allclose(logits, reference["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_transformers(family):
    """Norms of the gradients of all weights within 1e-4 of them."""
    model, reference, stored = published(family)
    tokens = reference["tokens"]
    targets = torch.cat((tokens[:, 1:], torch.full((2, 1), IGNORED)), 1)
    total, count = token_cross_entropy(model(tokens, torch.arange(40).expand(2, 40)), targets)
    (total / count).backward()
    assert (total / count).item() == pytest.approx(reference["loss"].item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        theirs = [reference.get(f"norm {key}") for key in stored.sources[name].names]
        if theirs[0] is not None:  # `transformers` holds experts in other tensors in memory than in files
            assert parameter.grad.norm().item() == pytest.approx(theirs[0].item(), rel=1e-4), name


@pytest.mark.parametrize("changes", [{}, {"num_experts": 4}, {"tie_embeddings": True}, {"window": 6}], ids=str)
def test_packed_documents_compute_what_each_does_alone(changes):
    model = build(**changes)
    tokens, _ = batch()
    lens = [[7, 13], [1, 2]]
    positions = torch.cat([torch.arange(n) for n in [*lens[0], *lens[1], 17]]).view(2, 20)
    segments = torch.tensor([[0] * 7 + [1] * 13, [5] * 1 + [6] * 2 + [7] * 17])
    together = model(tokens, positions, segments)
    assert torch.allclose(together[0, 7:], model(tokens[:1, 7:], positions[:1, 7:])[0], atol=1e-6)
    assert torch.allclose(together[1, 3:], model(tokens[1:, 3:], positions[1:, 3:])[0], atol=1e-6)


def test_a_token_sees_none_that_come_after_it():
    model = build()
    tokens, positions = batch()
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 50
    assert torch.equal(model(tokens, positions)[:, :12], model(changed, positions)[:, :12])


def test_only_distances_between_positions_count():
    model = build()
    tokens, positions = batch()
    assert torch.allclose(model(tokens, positions), model(tokens, positions + 1000), atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"num_experts": 4, "balance": 0.1}, {"tie_embeddings": True}], ids=str)
def test_every_parameter_gets_a_gradient(changes):
    model = build(**changes)
    tokens, positions = batch()
    token_cross_entropy(model(tokens, positions), tokens).total.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_parts_of_a_model_are_the_model_in_steps():
    """As the stages of a pipeline are: a part without an embedding takes states, one without a head gives them."""
    model = build()
    tokens, positions = batch()
    want = model(tokens, positions)
    first, last = build(), build()
    del first.layers["2"], last.layers["0"], last.layers["1"]
    first.norm = first.head = last.embedding = None
    states = first(tokens, positions)
    assert states.shape == (2, 20, 32)
    assert torch.equal(last(states, positions), want)
    names = [name for part in (first, last) for name, _ in part.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_tied_weights_are_one_parameter():
    model = build(tie_embeddings=True)
    assert model.head.weight is model.embedding.weight
    assert "head.weight" not in dict(model.named_parameters())
    model.embedding.weight = nn.Parameter(torch.ones(50, 32))
    model.tie()
    assert model.head.weight is model.embedding.weight


@pytest.mark.parametrize("changes", [{}, {"num_experts": 4}], ids=str)
def test_first_weights_are_drawn_by_name(changes):
    model = build(**changes)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        value = model.draw(name, parameter.shape, generator)
        assert value.shape == parameter.shape and value.dtype == torch.float32
        deviations = {"norm.weight": 0.0, "output.weight": 0.02 / 6**0.5, "down.weight": 0.02 / 6**0.5}
        deviations["experts.down"] = 0.02 / 6**0.5
        want = next((std for end, std in deviations.items() if name.endswith(end)), 0.02)
        assert value.std().item() == pytest.approx(want, rel=0.15), name
        assert parameter.std().item() == pytest.approx(want, rel=0.15), name


def test_on_meta_nothing_is_filled():
    with torch.device("meta"):
        model = LlamaConfig(size="405b").build(128_256)
    assert all(p.is_meta for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) == 405_853_388_800


PUBLISHED = {  # parameters, as the papers and model cards round them
    "1b": (128_256, 1_235_814_400),
    "3b": (128_256, 3_212_749_824),
    "8b": (128_256, 8_030_261_248),
    "70b": (128_256, 70_553_706_496),
    "mistral_7b": (32_000, 7_241_732_096),
    "mixtral_8x7b": (32_000, 46_702_792_704),
    "mixtral_8x22b": (32_768, 140_630_071_296),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_the_published_number_of_parameters(size):
    vocab_size, count = PUBLISHED[size]
    with torch.device("meta"):
        model = LlamaConfig(size=size).build(vocab_size)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(("size", "low", "high"), [("20m", 17e6, 23e6), ("100m", 85e6, 115e6)])
def test_sizes_for_small_machines_hold_what_they_say(size, low, high):
    with torch.device("meta"):
        model = LlamaConfig(size=size).build(8192)
    assert low < sum(p.numel() for p in model.parameters()) < high


def test_every_size_can_be_named():
    names = LlamaConfig.__dataclass_fields__["size"].type
    assert set(SIZES) | {"custom"} == set(names.__args__)
    assert all(LlamaConfig(size=size).shape == SIZES[size] for size in SIZES)


def test_a_number_that_is_given_goes_before_that_of_the_size():
    shape = LlamaConfig(size="8b", num_layers=4, rope_theta=10_000.0).shape
    assert shape == SIZES["8b"]._replace(num_layers=4, rope_theta=10_000.0)


def test_it_compiles_as_one_graph():
    model = build(num_layers=1)
    tokens, positions = batch()
    got = torch.compile(model, fullgraph=True, backend="aot_eager")(tokens, positions)
    assert torch.allclose(got, model(tokens, positions), atol=1e-6)
    got.sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(tokens, positions).sum().backward()
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, grads[name], rtol=1e-4, atol=1e-5), name


def test_autocast_stays_close_and_gradients_stay_float32():
    model = build()
    tokens, positions = batch()
    want = model(tokens, positions)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(tokens, positions)
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).norm() < 0.02 * want.norm()
    got.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_config_goes_to_a_tree_and_back():
    cls = load_class(MODELS["llama"])
    for tree in (SMALL, {}, {"size": "8b"}, {**SMALL, "rope_scaling": {"factor": 4}}):
        made = decode(cls, tree)
        assert decode(cls, encode(made)) == made
        assert decode(cls, {k: v for k, v in made.shape.tree().items() if k != "kind"}).shape == made.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "8bb"}, r"`size` must be one of \[.*\], but is '8bb' instead.* Did you mean `8b`"),
        ({"d_model": None}, r"`d_model` must be given where `size` is \"custom\", but is None instead"),
        ({"num_layers": 0}, r"`num_layers` must be 1 or more, but is 0 instead"),
        ({"num_kv_heads": 3}, r"`num_kv_heads` must be a divisor of `num_heads`, 4, but is 3 instead"),
        ({"d_head": 7}, r"`d_head` must be even, as rotation takes pairs, but is 7 instead"),
        ({"rope_theta": 1.0}, r"`rope_theta` must be above 1, but is 1.0 instead"),
        ({"rope_scaling": {"factor": 0.5}}, r"`rope_scaling.factor` must be 1 or more, but is 0.5 instead"),
        ({"rope_scaling": {"high_freq_factor": 1}}, r"`rope_scaling.high_freq_factor` must be above `low_freq_factor`"),
        ({"norm_eps": -1.0}, r"`norm_eps` must be 0 or more"),
        ({"window": 0}, r"`window` must be 1 or more, but is 0 instead"),
        ({"num_experts": 4, "num_experts_per_token": 5}, r"`num_experts_per_token` must be at most `num_experts`, 4"),
        ({"num_experts": 4, "d_ff": 44}, r"`d_ff` must be a multiple of 8 with experts, but is 44 instead"),
        ({"num_head": 4}, r"`num_head` is not a setting of LlamaConfig. Did you mean `num_heads`"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_with_the_right_words(change, message):
    with pytest.raises(ConfigError, match=message):
        config(**change)
