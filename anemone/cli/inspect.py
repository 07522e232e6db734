"""Show what a model or an experiment is made of: stages, how they are wired, sizes, parameters.

An experiment is built without memory for its weights, so the largest costs nothing to look at.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemone.cli.config import add_experiment
from anemone.config import experiments, must, nearest
from anemone.errors import ConfigError, DataError
from anemone.training.settings import experiment

if TYPE_CHECKING:
    from anemone.tasks.task import Task
    from anemone.training.experiment import ExperimentConfig


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    add_experiment(parser)
    subject = next(action for action in parser._actions if action.dest == "experiment")
    subject.dest, subject.metavar, subject.help = "subject", "MODEL_OR_EXPERIMENT", "an archive, a name, or a YAML file"
    parser.add_argument("--graph", metavar="FILE.svg", help="draw the stages and their wires")


def run(args: argparse.Namespace) -> int:
    """Prints the stages and writes the drawing."""
    from anemone.cli.table import table

    if (graph := args.graph) is not None:
        fits = graph != "" and Path(graph).parent.is_dir() and not Path(graph).is_dir()
        must(fits, "--graph", "a file in a folder that exists", value=graph)
    task = subject(args.subject, args.overrides)
    tree = task.config_tree()
    number = sum(p.numel() for p in task.parameters())
    rate = f", {tree['features']['rate']} Hz" if tree["features"] else ""
    print(f"{args.subject}: {tree['task']['kind']}, {tree['model']['kind']}, {number:,} parameters{rate}")
    print(f"\n{table(stages(task))}")
    if graph:
        from anemone.cli.graph import draw
        from anemone.types import Chain

        if not isinstance(task.network, Chain):
            raise ConfigError(f"`--graph` must be left out for `{args.subject}`: it is no chain of stages.")
        Path(graph).write_text(draw(task.network, f"{args.subject}: {number:,} parameters"), "utf-8")
        print(f"\ndrawn: {graph}")
    return 0


def subject(name: str, overrides: list[str]) -> "Task":
    """Returns a model that exists, or the model of an experiment, on the meta device.

    Raises:
        ConfigError: there is neither.
    """
    from anemone.checkpoint.registry import pretrained, resolve

    if name in experiments() or name.endswith((".yaml", ".yml")):
        return _of_experiment(name, overrides)
    names = [entry.name for entry in pretrained()]
    if name not in names and not Path(name).exists():
        known = [*experiments(), *names]
        raise ConfigError(
            f"`{name}` is neither a model nor an experiment.{nearest(name, known)} There are: {', '.join(known)}."
        )
    if overrides:
        raise ConfigError(f"`{overrides[0]}` cannot be set: `{name}` is a model that is trained already.")
    from anemone.tasks import load

    return load(resolve(name))


def _of_experiment(name: str, overrides: list[str]) -> "Task":
    import torch

    from anemone.tasks import build

    config = _labelled(experiment(name, overrides))
    with torch.device("meta"):
        return build(config.task, config.model, config.features, loss=config.loss, decoding=config.decoding)


def _labelled(config: "ExperimentConfig") -> "ExperimentConfig":
    """The experiment with the labels that training would find in its manifests."""
    from anemone.tasks.classification import ClassificationConfig

    task = config.task
    if not isinstance(task, ClassificationConfig) or task.labels:
        return config
    try:
        labels = tuple(config.data.read(config.data.train, task).labels)
    except DataError as error:
        print(f"labels are known once there is data, so two stand in for them: {error}", file=sys.stderr)
        labels = ("one", "other")
    return dataclasses.replace(config, task=dataclasses.replace(task, labels=labels))


def stages(task: "Task") -> list[dict[str, Any]]:
    """Returns the rows of a table: what each stage takes from where, what it gives, how many parameters it has."""
    from itertools import zip_longest

    from anemone.types import Chain

    rows: list[dict[str, Any]] = []
    for name, stage in task.network.named_children():
        number = sum(p.numel() for p in stage.parameters())
        head: dict[str, Any] = {"stage": name, "module": type(stage).__name__}
        if not isinstance(task.network, Chain):
            rows.append({**head, "parameters": f"{number:,}"})
            continue
        inputs, outputs = task.network.stages[name]
        takes = [f"{arg}: {inputs[arg]} from {source or 'input'}" for arg, source in task.network.wiring[name].items()]
        gives = [f"{key}: {port}" for key, port in outputs.items()]
        for i, (taken, given) in enumerate(zip_longest(takes, gives)):
            first = {"parameters": f"{number:,}"} if i == 0 else {}
            rows.append({**(head if i == 0 else {"stage": "", "module": ""}), "takes": taken, "gives": given, **first})
    return rows
