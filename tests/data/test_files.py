"""Files are found where they lie: in the package, or as they are named."""

from pathlib import Path

import pytest

from anemone.data.files import ASSETS, find
from anemone.errors import DataError


def test_assets_lie_inside_the_package(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").write_text("{}")
    kind = {"noun": "manifest", "pattern": "*.json*"}
    assert find("own.jsonl", **kind) == Path("own.jsonl")
    with pytest.raises(DataError, match=r"`assets/none\.jsonl` must be a manifest that exists"):
        find("assets/none.jsonl", **kind)
    monkeypatch.setattr("anemone.data.files.ASSETS", tmp_path)
    assert find("assets/own.jsonl", **kind) == tmp_path / "own.jsonl"
    assert ASSETS.name == "assets"
