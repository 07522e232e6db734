"""A dozen layouts compute what one process does; one that is made wrong is caught; a number that misses fails."""

import math

import pytest
import torch

from anemone.training.parity import BARS, Errors, Report, Trace, compare, distance, prove, relative
from anemone.training.parity_layouts import LAYOUTS, NETWORKS, REFUSED, Row
from anemone.training.settings import experiment


@pytest.mark.parametrize("row", [row for row in LAYOUTS if row.quick], ids=lambda row: f"{row.network}: {row.settings}")
def test_a_layout_computes_what_one_process_does(row):
    report = prove(row)
    assert report.passed, report


def test_the_table_is_long_and_names_each_layout_once():
    assert len(LAYOUTS) >= 40 and len(set(LAYOUTS)) == len(LAYOUTS)
    assert not {(row.network, row.settings) for row in LAYOUTS} & {(row.network, row.settings) for row in REFUSED}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("pp=2 dp_shard=2 schedule=zbv", "`parallel.zero` must be 1 with a zero-bubble schedule"),
        ("ep=2", "`parallel.ep` must be a divisor of dp_shard"),
        ("tp=3", "`parallel.tp` must be a divisor of 4, which `model.num_heads` gives"),
    ],
)
def test_a_refused_layout_has_its_reason_and_did_not_pass(settings, message):
    report = prove(Row("llama", settings))
    assert message in report.refusal
    assert report.errors is None and not report.passed


# --- layouts made wrong on purpose ------------------------------------------------------------------------------------


def forget_to_sum(parallel):
    parallel.reduce = lambda: None


def take_the_mean(parallel):
    real = parallel.reduce

    def reduce():
        real()
        for p in parallel.network.parameters():
            p.grad.mul_(1 / parallel.mesh.data_world)

    parallel.reduce = reduce


def turn_one_weight(parallel):
    """A tenth of a percent of one of a few dozen gradients."""
    real = parallel.reduce

    def reduce():
        real()
        parallel.network.layers["1"].attention.key.weight.grad.mul_(1.001)

    parallel.reduce = reduce


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (forget_to_sum, {"norm", "gradient", "sgd"}),
        (take_the_mean, {"norm", "gradient", "sgd"}),
        (turn_one_weight, {"gradient"}),
    ],
)
def test_a_layout_that_is_made_wrong_is_caught(spoil, wrong):
    name, *settings = NETWORKS["llama"]
    report = compare(experiment(name, [*settings, "parallel.dp_replicate=2"]), spoil=spoil)
    assert not report.passed
    beyond = {name for name in Errors._fields if getattr(report.errors, name) > getattr(BARS["32"], name)}
    assert wrong <= beyond


# --- the numbers ------------------------------------------------------------------------------------------------------


def trace(**changes):
    one = {"a": torch.ones(4), "b": torch.full((2, 2), 1e-9)}
    return Trace(**{"losses": [1.0, 2.0], "norms": [3.0], "gradients": one, "sgd": one, "adamw": one} | changes)


def test_distances_are_those_of_their_definitions():
    ours = trace(losses=[1.0, 2.5], norms=[3.3], gradients={"a": torch.tensor([1.0, 1, 1, 3]), "b": torch.zeros(2, 2)})
    errors, worst = distance(ours, trace())
    assert errors == pytest.approx((0.5, 0.1, 1.0, 0.0, 0.0)) and worst == "a"


def test_what_is_rounding_error_beside_the_whole_does_not_count_as_wrong():
    assert relative({"a": torch.ones(4), "b": torch.zeros(2, 2)}, trace().gradients)["b"] == pytest.approx(1e-3)


@pytest.mark.parametrize("tensors", [{"a": torch.ones(4)}, {"a": torch.ones(4), "b": torch.full((2, 2), math.nan)}])
def test_what_is_missing_or_not_finite_is_infinitely_wrong(tensors):
    errors, worst = distance(trace(gradients=tensors), trace())
    assert errors.gradient == math.inf and worst == "b"


@pytest.mark.parametrize("field", Errors._fields)
@pytest.mark.parametrize("value", [2e-3, math.nan, math.inf])
def test_one_error_beyond_its_bar_is_enough(field, value):
    fine = Errors(0.0, 0.0, 0.0, 0.0, 0.0)
    assert Report(2, fine, "", BARS["32"]).passed
    assert not Report(2, fine._replace(**{field: value}), "", BARS["32"]).passed
