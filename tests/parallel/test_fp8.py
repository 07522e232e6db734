"""8-bit products: real ones, in the layers that are meant, within a band, on one process and on many."""

import importlib.util
import logging
import math
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from anemone.errors import ConfigError
from anemone.models.text.llama import LlamaConfig
from anemone.parallel.fp8 import convert
from anemone.parallel.plans import find_plans
from anemone.parallel.plans.llama import PLAN
from anemone.parallel.processes import run_ranks
from anemone.testing import tiny
from tests.parallel.steps import laid_out, step, whole

RECIPES = ("tensorwise", "rowwise")


def llama(**changes):
    torch.manual_seed(0)
    sizes = {"size": "custom", "d_model": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_ff": 96}
    return LlamaConfig(**{**sizes, **changes}).build(64)


def gradients(network, rows=2, tokens=16):
    positions = torch.arange(tokens).expand(rows, tokens)
    loss = network(positions % 61, positions).logsumexp(-1).sum()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("tokens", [16, 13])
def test_loss_and_gradients_stay_near(recipe, tokens):
    """e4m3 has 3 bits of mantissa: a product is off by 3 to 4 %, a gradient through two layers by up to 15 %."""
    loss, grads = gradients(llama(), tokens=tokens)
    network = llama()
    convert(network, PLAN, recipe)
    rounded, near = gradients(network, tokens=tokens)
    assert 0 < abs(rounded / loss - 1) < 2e-3
    errors = {name: float((near[name] - g).norm() / g.norm()) for name, g in grads.items()}
    assert max(errors.values()) < 0.2 and 0.005 < math.fsum(errors.values()) / len(errors) < 0.1


@pytest.mark.parametrize("recipe", RECIPES)
def test_products_are_really_in_8_bits(recipe):
    network = llama()
    names = convert(network, PLAN, recipe)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        gradients(network)
    counts = {event.key: event.count for event in profiler.key_averages()}
    assert counts["aten::_scaled_mm"] == 3 * len(names) == 3 * 2 * 7
    outside = 3  # of the head, which is not rounded
    assert counts["aten::mm"] == counts["aten::_scaled_mm"] * 2 + outside


def test_head_embedding_and_routers_are_left_alone(caplog):
    network = llama(num_experts=4, num_experts_per_token=2)
    with caplog.at_level(logging.WARNING):
        names = convert(network, PLAN, "rowwise")
    assert names == [f"layers.{n}.attention.{part}" for n in (0, 1) for part in ("query", "key", "value", "output")]
    assert type(network.head) is nn.Linear and type(network.layers["0"].ffn.router).__name__ == "Router"
    assert "No fp8 for the grouped products of experts" in caplog.text


def test_widths_that_do_not_fit_are_left_alone_and_named(caplog):
    network = llama(d_ff=104)
    with caplog.at_level(logging.WARNING):
        names = convert(network, PLAN, "tensorwise")
    assert not [name for name in names if "ffn" in name]
    assert "no multiple of 16: layers.0.ffn.down, layers.0.ffn.gate, layers.0.ffn.up, layers.1" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # 32 / 4 = 8
        names = convert(llama(d_ff=128), PLAN, "tensorwise", tensor_parallel=4)
    assert not [name for name in names if name.endswith(("key", "value"))] and "0.attention.key" in caplog.text


def test_names_and_formats_of_weights_stay():
    network, plain = llama(), llama()
    convert(network, PLAN, "tensorwise")
    state = network.state_dict()
    assert list(state) == list(plain.state_dict())
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype
        for a, b in zip(state.values(), plain.state_dict().values(), strict=True)
    )
    plain.load_state_dict(state)
    assert type(network.layers["0"].ffn.up).__name__ == "Float8Linear"


def test_a_network_on_meta_is_converted():
    with torch.device("meta"):
        network = LlamaConfig(size="8b").build(vocab_size=256)
    assert len(convert(network, PLAN, "rowwise")) == 32 * 7
    assert all(p.is_meta for p in network.parameters())


def test_a_network_without_fitting_layers_is_refused():
    network = llama(d_model=40, d_ff=40)
    with pytest.raises(ConfigError, match=r"`precision` must be one without fp8 for Llama, but is 'fp8' instead"):
        convert(network, PLAN, "tensorwise")


def test_the_pointwise_convolutions_of_a_speech_encoder_are_converted():
    [(_, encoder, plan)] = find_plans(tiny())
    names = convert(encoder, plan, "rowwise")
    x, _ = encoder.train()(torch.randn(2, 32, 64), torch.tensor([64, 50]))
    x.square().sum().backward()
    assert len(names) >= 3 and all(encoder.get_parameter(f"{name}.weight").grad is not None for name in names)


@pytest.mark.parametrize(
    ("recipe", "library", "way"),
    [
        ("rowwise", "torchao", r"anemone\[fp8\]"),
        ("transformer_engine", "transformer_engine", "take fp8 or fp8-rowwise"),
    ],
)
def test_a_missing_library_is_named_with_the_way_to_it(monkeypatch, recipe, library, way):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"asks for {library}, which is not installed: .*{way}"):
        convert(llama(), PLAN, recipe)


def test_transformer_engine_is_refused_under_tensor_parallel():
    with pytest.raises(ConfigError, match=r"`parallel.tp` must be 1 with `precision` fp8-te, but is 2 instead"):
        convert(llama(d_ff=128), PLAN, "transformer_engine", tensor_parallel=2)


# --- on many processes ------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What one step gave, how many products were in 8 bits, and the formats of weights and gradients."""

    loss: float
    norm: float
    grads: dict
    products: int
    masters: set

    def apart(self, other):
        """Relative errors of the loss, of the gradient norm, and of the worst gradient."""
        errors = [float((self.grads[name] - g).norm() / g.norm()) for name, g in other.grads.items()]
        return abs(self.loss / other.loss - 1), abs(self.norm / other.norm - 1), max(errors)


def over(rank, layout):
    """A step over a layout by recipe, and one without 8 bits."""
    steps = {}
    for fp8 in (*RECIPES, None):
        parallel = laid_out(layout, short=torch.bfloat16, fp8=fp8)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            loss = step(parallel)
        parallel.reduce()
        products = sum(event.count for event in profiler.key_averages() if event.key == "aten::_scaled_mm")
        named = dict(parallel.network.named_parameters())
        grads = {name: whole(p.grad) for name, p in named.items()}
        masters = {kind for p in named.values() for kind in (p.dtype, p.grad.dtype)}
        steps[fp8] = Step(loss, parallel.grad_norm().item(), grads, products, masters)
    return steps


@pytest.fixture(scope="module")
def one():
    return run_ranks(1, over, {})[0]


@pytest.mark.parametrize(
    ("layout", "bars"),
    [({"dp_shard": 2}, (1e-5, 1e-4, 1e-3)), ({"tp": 2}, (2e-4, 4e-3, 0.15))],
)
def test_layouts_agree_within_the_noise_of_the_format(one, layout, bars):
    """Data parallel rounds the same numbers; tensor parallel other ones, as sums of parts are rounded apart."""
    run = run_ranks(2, over, layout)[0]
    for recipe in RECIPES:
        errors = run[recipe].apart(one[recipe])
        assert all(error < bar for error, bar in zip(errors, bars, strict=True)), (recipe, errors)
        assert run[recipe].products == one[recipe].products // (2 if "dp_shard" in layout else 1) > 0
        assert run[recipe].masters == {torch.float32}


def test_fp8_differs_from_bfloat16_by_more_than_rounding(one):
    for recipe in RECIPES:
        loss, norm, worst = one[recipe].apart(one[None])
        assert 0 < loss < 3e-4 and norm < 5e-3 and 0.02 < worst < 0.2
    assert one[None].products == 0
