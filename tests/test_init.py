"""The package's front door: a tour, a dozen names, nothing heavy until one is used."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import anemone

PACKAGE = Path(anemone.__file__).parent


def test_every_name_is_what_its_home_holds():
    for name, home in anemone._HOMES.items():
        assert getattr(anemone, name) is getattr(importlib.import_module(f"anemone.{home}"), name)


def test_names_are_few_sorted_and_all_listed():
    assert sorted(anemone._HOMES) == anemone.__all__
    assert len(anemone.__all__) <= 15
    assert set(anemone.__all__) <= set(dir(anemone))


def test_checkers_see_the_same_names():
    text = (PACKAGE / "__init__.py").read_text("utf-8")
    typed = {name: home for home, name in re.findall(r"from anemone\.([\w.]+) import (\w+) as \2", text)}
    assert typed == anemone._HOMES


def test_the_tour_names_every_room_in_walking_order():
    rooms = [line.split()[0] for line in anemone.__doc__.splitlines() if re.match(r"    [a-z]+ {2,}\w", line)]
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"assets"}
    assert set(rooms) == folders
    assert rooms.index("data") < rooms.index("models") < rooms.index("tasks") < rooms.index("cli")


def test_an_unknown_name_is_an_attribute_error_that_lists_the_names():
    with pytest.raises(AttributeError, match=r"has no attribute `loud`; its names are .*load"):
        anemone.loud  # noqa: B018
    with pytest.raises(ImportError):
        from anemone import loud  # noqa: F401


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert anemone.__version__ == version("anemone")


def test_import_loads_no_torch():
    code = "import sys, anemone; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "hydra", "pyarrow", "soundfile"} & set(loaded.split())
    code = "import sys, anemone; anemone.AnemoneError; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert "torch" not in loaded.split()
