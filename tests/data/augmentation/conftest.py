"""What the tests of steps share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anemone.data.augmentation import Augmented, Recipe, augment

RATE = 16_000


@pytest.fixture(scope="session")
def golden() -> Any:
    """Arrays made by NeMo 3.0.0 of the second of speech `x`."""
    return np.load(Path(__file__).parents[2] / "golden/parity/augment/values.npz")


def act(audio: np.ndarray, step: str, *, rate: int = RATE, copy: int = 0, id: str = "a", **settings: Any) -> Augmented:
    """One step of certain effect."""
    recipe = Recipe.parse([{step: {"p": 1, **settings}}])
    changed = augment(audio, rate, recipe, seed=0, id=id, copy=copy)
    return Augmented(changed.audio, changed.drawn[step])


@pytest.fixture
def step() -> Any:
    return act


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """Ten seconds of white noise, a fifth of full scale."""
    return np.random.default_rng(7).standard_normal(160_000, np.float32) * np.float32(0.2)
