"""Print the settings of an experiment as YAML: all of them, decoded, with their defaults.

The output is an experiment itself: `anemone config EXPERIMENT > mine.yaml` and `anemone train mine.yaml`.
"""

import argparse

from anemone.training.settings import experiment


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
        default=[],  # or the parser calls it required
        help="settings, as optim.lr=0.01, or files of groups, as optim=lion",
    )
