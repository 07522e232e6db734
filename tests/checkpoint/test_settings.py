"""A stranger's archive may ask for anything: whatever value stands in a setting, loading refuses it or works."""

import copy
import itertools
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import anemone
from anemone.errors import ArchiveError
from anemone.testing import tiny

GOLDEN = Path(__file__).parents[1] / "golden/parity"
ALWAYS = [10**9, float("nan"), "x"]
IN_TURN = [-1, [], 1e300, None, 0]  # one of them for each place


@pytest.fixture
def one_gigabyte() -> Iterator[None]:
    """Lets the process take one gigabyte more and no more: beyond it, allocating raises."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in a tree, groups and lists included; of a list of texts the first alone."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    if isinstance(tree, list) and all(isinstance(item, str) for item in tree):
        items = items[:1]
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def altered(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    tree = copy.deepcopy(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


def outcomes(tree: Any, write: Any, path: Path, groups: set[str]) -> set[str]:
    """Loads the archive with each value in each place of some groups; what is not an `ArchiveError` escapes."""
    seen, in_turn = set(), itertools.cycle(IN_TURN)
    for place in (place for place in places(tree) if place[0] in groups):
        for value in (*ALWAYS, next(in_turn)):
            write(altered(tree, place, value))
            try:
                anemone.load(path)
                seen.add("loaded")
            except ArchiveError:
                seen.add("refused")
            except Exception as error:
                error.add_note(f"{place} = {value!r}")
                raise
    return seen


@pytest.mark.parametrize("kind", ["classification", "recognition"])
def test_no_value_in_an_archive_of_ours_does_more_than_be_refused(kind, tmp_path, one_gigabyte):
    task = tiny(kind)
    path = tmp_path / "model"
    anemone.save(task, path)
    tree = task.config_tree() | {"features": {**task.config_tree()["features"], "spec_augment": {"freq_width": 3}}}

    def write(tree: Any) -> None:
        (path / "config.yaml").write_text(yaml.safe_dump(tree))

    write(tree)
    anemone.load(path)
    groups = set(tree) if kind == "classification" else set(tree) - {"model", "features"}  # the same in both
    assert outcomes(tree, write, path, groups) == {"loaded", "refused"}


def test_no_value_in_an_archive_of_nemo_s_does_more_than_be_refused(tmp_path, one_gigabyte):
    path = tmp_path / "model"
    path.mkdir()
    with tarfile.open(GOLDEN / "matchboxnet_options" / "model.nemo") as tar:
        tar.extractall(path, filter="data")
    tree = yaml.safe_load((path / "model_config.yaml").read_text())

    def write(tree: Any) -> None:
        (path / "model_config.yaml").write_text(yaml.safe_dump(tree))

    groups = set(tree) - {"train_ds", "validation_ds", "test_ds", "optim", "trainer", "exp_manager"}  # not read
    assert outcomes(tree, write, path, groups) == {"loaded", "refused"}


def test_a_config_whose_weights_would_not_fit_the_memory_is_refused_before_they_are_made(tmp_path, one_gigabyte):
    path = tmp_path / "model"
    anemone.save(task := tiny(), path)
    tree = altered(task.config_tree(), ("model", "blocks", 0, "d_model"), 65_536)
    tree = altered(tree, ("model", "blocks", 0, "kernel"), 65_535)
    (path / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ArchiveError, match=r"the config asks for more than the [\d,]+ weights that came with it"):
        anemone.load(path)
