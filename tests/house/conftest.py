"""The package's sources, parsed once for all gates."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Path below the repository, as messages print it."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def module(self) -> str:
        """Dotted name."""
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def functions(self) -> Iterator[tuple[str, Function]]:
        """All functions and methods, with a name that tells where they are."""
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield f"{self.name}:{node.lineno} {node.name}", node

    def classes(self) -> Iterator[tuple[str, ast.ClassDef]]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef):
                yield f"{self.name}:{node.lineno} {node.name}", node


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    paths = sorted((ROOT / "anemone").rglob("*.py"))
    return [Source(path, text := path.read_text("utf-8"), ast.parse(text)) for path in paths]
