"""Modules of recipes, as their scripts import them."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def prepare_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports `prepare.py` of a recipe; the next test may import that of another."""

    def imported(recipe: str) -> ModuleType:
        for folder in (RECIPES, RECIPES / recipe):
            monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "prepare", raising=False)
        return importlib.import_module("prepare")

    yield imported
    sys.modules.pop("prepare", None)
