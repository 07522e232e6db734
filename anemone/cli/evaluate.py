"""Measure a model on manifests: JSON lines with `audio_filepath` and `text` or `label`; or on texts, .txt or .jsonl.

Features of Kaldi are measured on where DATA is a feats.scp, or a folder with one and without wav.scp.
"""

import argparse
from typing import TYPE_CHECKING, Any

from anemone.cli import positive

if TYPE_CHECKING:
    from anemone.tasks.task import States, Task

NORMS = ("none", "mean", "mean_and_variance")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("model", metavar="MODEL", help="an archive (.anemone, .nemo, a folder), or a pretrained name")
    parser.add_argument("data", metavar="DATA", nargs="+", help="manifests or texts; assets/... lies in the package")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="rows at once (default 32)")
    parser.add_argument("--channel", type=int, metavar="N", help="which channel to hear, from 0 (default: their mean)")
    parser.add_argument("--cmvn", choices=NORMS, default="none", help="what Kaldi's features are normalised by")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the metrics, and of a classifier the most frequent confusions."""
    import json

    from anemone.cli.recordings import loaded
    from anemone.cli.table import table

    task = loaded(args.model)
    from anemone.training.evaluation import evaluation_data, states_of, summarize, told

    data = evaluation_data(task, args.data, batch_size=args.batch_size, channel=args.channel, cmvn=args.cmvn)
    states = states_of(task, args.data, data)
    metrics, rows = summarize(task, states), confusions(task, states)
    if args.json:
        found = {"model": args.model, "data": args.data, **metrics}
        print(json.dumps(found | ({"confusions": rows} if "confusion" in states else {}), ensure_ascii=False))
        return 0
    print(table([{"metric": name, "value": value} for name, value in told(metrics).items()]))
    if rows:
        print(f"\n{table(rows)}")
    return 0


def confusions(task: "Task", states: "States") -> list[dict[str, Any]]:
    """The most frequent mistakes of a classifier: label, what it was taken for, how often."""
    from anemone.metrics.confusion import confused
    from anemone.tasks.classification import ClassificationTask

    if not isinstance(task, ClassificationTask):
        return []
    return [
        {"label": task.labels[label], "taken_for": task.labels[other], "times": number}
        for label, other, number in confused(states["confusion"])
    ]
