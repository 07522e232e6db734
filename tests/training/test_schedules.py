"""Schedules: equal to golden values, pure, and strict about their settings."""

import json
from pathlib import Path

import pytest

from anemone.config import decode, load_class
from anemone.errors import ConfigError
from anemone.training.schedules import SCHEDULES, WSDConfig

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/parity/schedules/values.json").read_text())["schedules"]

# the golden series -> our kind and settings; 80 steps, base rate 1
SAME = {
    "CosineAnnealing(max_steps=80,warmup_steps=10,min_lr=0.05)": ("cosine", {"warmup_steps": 10, "floor": 0.05}),
    "CosineAnnealing(max_steps=80,min_lr=0.0)": ("cosine", {}),
    "CosineAnnealing(max_steps=80,warmup_ratio=0.1,min_lr=0.01)": ("cosine", {"warmup_ratio": 0.1, "floor": 0.01}),
    "NoamAnnealing(d_model=64,max_steps=80,warmup_steps=20,min_lr=0.0001)": (
        "noam",
        {"d_model": 64, "warmup_steps": 20, "floor": 0.0001},
    ),
    "NoamAnnealing(d_model=1,max_steps=80,warmup_steps=20,min_lr=0.0)": ("noam", {"d_model": 1, "warmup_steps": 20}),
    "WarmupAnnealing(max_steps=80,warmup_steps=10,min_lr=0.0)": ("polynomial", {"warmup_steps": 10}),
    "InverseSquareRootAnnealing(max_steps=80,warmup_steps=10,min_lr=1e-06)": (
        "inverse_sqrt",
        {"warmup_steps": 10, "floor": 1e-6},
    ),
    "InverseSquareRootAnnealing(max_steps=80,warmup_ratio=0.2,min_lr=0.0)": ("inverse_sqrt", {"warmup_ratio": 0.2}),
    "PolynomialDecayAnnealing(max_steps=80,warmup_steps=10,min_lr=0.01,power=2.0)": (
        "polynomial",
        {"warmup_steps": 10, "floor": 0.01, "power": 2.0},
    ),
    "PolynomialHoldDecayAnnealing(max_steps=80,warmup_ratio=0.05,hold_ratio=0.45,min_lr=0.001,power=2.0)": (
        "wsd",
        {"warmup_ratio": 0.05, "decay_ratio": 0.5, "decay": "square", "floor": 0.001},
    ),
    "WarmupPolicy(max_steps=80,warmup_steps=10)": ("constant", {"warmup_steps": 10}),
}


def build(kind, settings, total_steps=80):
    return decode(load_class(SCHEDULES[kind]), settings).build(total_steps)


@pytest.mark.parametrize("name", SAME)
def test_a_schedule_equals_the_golden_values_on_every_step_of_the_run(name):
    schedule = build(*SAME[name])
    assert [schedule(step) for step in range(81)] == pytest.approx(GOLDEN[name]["lr"][:81], abs=1e-11)


def test_every_kind_is_held_against_golden_values():
    assert {kind for kind, _ in SAME.values()} == set(SCHEDULES)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_factors_are_finite_positive_or_zero_also_beyond_the_end(kind):
    schedule = build(kind, {"d_model": 4} if kind == "noam" else {})
    assert all(0 <= schedule(step) <= 1 for step in range(200))


@pytest.mark.parametrize("decay", ["linear", "cosine", "square", "one_minus_sqrt"])
def test_wsd_is_stable_then_falls_to_the_floor(decay):
    schedule = WSDConfig(decay_steps=20, decay=decay, floor=0.1).build(100)
    values = [schedule(step) for step in range(101)]
    assert set(values[:80]) == {1.0}
    assert values[80:] == sorted(values[80:], reverse=True)
    assert values[100] == pytest.approx(0.1)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"`warmup_ratio` must be between 0 and 1, but is 2.0 instead\."):
        build("cosine", {"warmup_ratio": 2.0})
    with pytest.raises(ConfigError, match=r"`warmup_ratio` must be left out where `warmup_steps` is given"):
        build("cosine", {"warmup_ratio": 0.5, "warmup_steps": 3})
    with pytest.raises(ConfigError, match=r"`warmup_step` is not a setting of CosineConfig.*`warmup_steps`"):
        build("cosine", {"warmup_step": 3})
