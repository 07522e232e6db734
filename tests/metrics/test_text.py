"""Perplexity and bits per byte, against their formulas and at their limits."""

import math

import pytest

from anemone.metrics.text import bits_per_byte, perplexity


def test_a_model_that_knows_nothing_is_as_unsure_as_its_vocabulary_is_large():
    nats = 100 * math.log(256)
    assert perplexity(nats, 100) == pytest.approx(256)
    assert bits_per_byte(nats, 100) == pytest.approx(8)


def test_nothing_at_all_and_hopeless_models_give_finite_numbers():
    assert perplexity(0.0, 0) == 1 and bits_per_byte(0.0, 0) == 0
    assert math.isfinite(perplexity(1e6, 1))
