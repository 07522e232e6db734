"""The settings of a run by the name of an experiment. Light: PyTorch is imported once they compose."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anemone.config import Tree, compose, decode, must

if TYPE_CHECKING:
    from anemone.training.experiment import ExperimentConfig

SPEC_AUGMENT = "spec_augment"  # the step of a recipe that works on features


def experiment(name: str, overrides: Sequence[str] = ()) -> "ExperimentConfig":
    """Returns the settings of an experiment. Its run lives in ``runs/<name>`` unless they say otherwise.

    Example:
        >>> experiment("telephone_words_quartznet", ["optim.lr=0.25"]).optim.lr
        0.25

    Args:
        name: an experiment of ours, or the path of a YAML file, which is named without its folder and ending.
        overrides: as `anemone.config.compose` takes them.

    Raises:
        ArchiveError: the model of ``run.init`` is missing, broken, or of an architecture that is not read.
        ConfigError: there is no such experiment, or a setting is wrong.
    """
    tree = compose(name, overrides)  # before PyTorch is imported, so that most mistakes are told at once
    if isinstance(run := tree.setdefault("run", {}), dict):
        run.setdefault("folder", f"runs/{Path(name).stem}")
    from anemone.training.experiment import ExperimentConfig

    if isinstance(run, dict) and isinstance(init := run.get("init"), str):
        if (Path(init) / "config.json").is_file() and tree.get("task", {}).get("kind") == "language_modelling":
            from anemone.training.convert import begun

            tree = begun(tree, Path(init))
        else:
            from anemone.training.adapting import filled

            tree = filled(tree, init)
    return decode(ExperimentConfig, with_features_augmented(tree))


def with_features_augmented(tree: Tree) -> Tree:
    """Moves SpecAugment from the recipe, ``data.augment``, to where features are computed, ``features.spec_augment``.

    Raises:
        ConfigError: both places have it, or it comes twice, or there are no features.
    """
    data, features = tree.get("data"), tree.get("features")
    steps = data.get("augment") if isinstance(data, dict) else None
    named = [{name: steps[name]} for name in steps] if isinstance(steps, dict) else steps
    if not isinstance(data, dict) or not isinstance(named, list):
        return tree
    found = [step for step in named if step == SPEC_AUGMENT or (isinstance(step, dict) and SPEC_AUGMENT in step)]
    if not found:
        return tree
    free = isinstance(features, dict) and features.get(SPEC_AUGMENT) is None
    once = len(found) == 1 and free
    must(once, "data.augment", "a recipe with `spec_augment` once, and no `features.spec_augment` beside", value=found)
    settings = found[0].get(SPEC_AUGMENT) if isinstance(found[0], dict) else {}
    left = [step for step in named if step not in found]
    return tree | {"data": {**data, "augment": left}, "features": {**(features or {}), SPEC_AUGMENT: settings or {}}}
