"""The settings of a run by the name of an experiment. Light: PyTorch is imported once they compose."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anemone.config import compose, decode

if TYPE_CHECKING:
    from anemone.training.experiment import ExperimentConfig


def experiment(name: str, overrides: Sequence[str] = ()) -> "ExperimentConfig":
    """Returns the settings of an experiment. Its run lives in ``runs/<name>`` unless they say otherwise.

    Example:
        >>> experiment("telephone_words_quartznet", ["optim.lr=0.25"]).optim.lr
        0.25

    Args:
        name: an experiment of ours, or the path of a YAML file, which is named without its folder and ending.
        overrides: as `anemone.config.compose` takes them.

    Raises:
        ArchiveError: the folder of ``run.init`` is missing, broken, or of an architecture that is not read.
        ConfigError: there is no such experiment, or a setting is wrong.
    """
    tree = compose(name, overrides)  # before PyTorch is imported, so that most mistakes are told at once
    if isinstance(run := tree.setdefault("run", {}), dict):
        run.setdefault("folder", f"runs/{Path(name).stem}")
    from anemone.training.experiment import ExperimentConfig

    if isinstance(run, dict) and (init := run.get("init")):
        from anemone.training.convert import begun

        tree = begun(tree, Path(init))
    return decode(ExperimentConfig, tree)
