"""Print the settings of an experiment as YAML: all of them, decoded, with their defaults.

The output is an experiment itself: `anemone config EXPERIMENT > mine.yaml` and `anemone train mine.yaml`.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anemone.training.experiment import ExperimentConfig


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    add_experiment(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the tree."""
    import yaml

    from anemone.config import encode

    tree = encode(experiment(args.experiment, args.overrides))
    print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120), end="")
    return 0


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Adds an experiment and its overrides."""
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a name, or a YAML file of your own")
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="settings, as optim.lr=0.01, or files of groups, as optim=lion",
    )


def experiment(name: str, overrides: Sequence[str]) -> "ExperimentConfig":
    """Returns the settings of an experiment. Its run lives in ``runs/<name>`` unless they say otherwise.

    Args:
        name: an experiment of ours, or the path of a YAML file.
        overrides: as `anemone.config.compose` takes them.

    Raises:
        ConfigError: there is no such experiment, or a setting is wrong.
    """
    from pathlib import Path

    from anemone.config import compose, decode

    tree = compose(name, overrides)  # before PyTorch is imported, so that most mistakes are told at once
    if isinstance(run := tree.setdefault("run", {}), dict):
        run.setdefault("folder", f"runs/{Path(name).stem}")
    from anemone.training.experiment import ExperimentConfig

    return decode(ExperimentConfig, tree)
