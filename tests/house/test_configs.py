"""Every YAML that ships composes, decodes and builds on the meta device; resolved trees change only on purpose."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from anemone.config import CONF, encode, experiments
from anemone.training.settings import experiment

GOLDEN = Path(__file__).parents[1] / "golden" / "configs"


@pytest.mark.parametrize("name", experiments())
def test_an_experiment_decodes_and_stays_as_it_was(name):
    """After a wanted change: `python tests/house/test_configs.py` writes the new trees; read the difference."""
    tree = encode(experiment(name))
    assert tree == json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", experiments())
def test_an_experiment_builds_on_meta(name):
    import dataclasses

    from anemone import tasks

    config = experiment(name)
    task = config.task
    if getattr(task, "labels", None) == ():
        task = dataclasses.replace(task, labels=("a", "b", "c"))
    with torch.device("meta"):
        built = tasks.build(task, config.model, config.features, loss=config.loss, decoding=config.decoding)
    assert all(p.is_meta for p in built.parameters())
    assert sum(p.numel() for p in built.parameters()) > 10_000


GROUPS = [p for p in sorted(CONF.glob("*/*.yaml")) if p.parent.name != "experiment"]


@pytest.mark.parametrize("path", GROUPS, ids=lambda p: p.relative_to(CONF).as_posix())
def test_a_group_file_decodes_in_some_experiment(path):
    """Each file of a group fits the field its folder is named after."""
    group, problems = path.parent.name, []
    for name in experiments():
        try:
            experiment(name, [f"{group}={path.stem}"])
            return
        except ValueError as error:
            problems.append(f"{name}: {error}")
    pytest.fail("\n".join(problems))


def test_configs_hold_values_only():
    for path in CONF.rglob("*.yaml"):
        text = path.read_text("utf-8")
        assert "_target_" not in text and "${" not in text, path
        assert isinstance(yaml.safe_load(text), dict), path


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in experiments():
        tree = encode(experiment(name))
        (GOLDEN / f"{name}.json").write_text(json.dumps(tree, indent=1) + "\n", "utf-8")
