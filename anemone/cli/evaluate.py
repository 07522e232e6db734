"""Measure a model on manifests: JSON lines with `audio_filepath` and `text` or `label`."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("model", metavar="MODEL", help="an archive (.anemone, .nemo, a folder), or a pretrained name")
    parser.add_argument("data", metavar="DATA", nargs="+", help="manifests; assets/... lies in the package")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="recordings at a time (default 32)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the metrics."""
    import json

    from anemone.cli.recordings import loaded
    from anemone.cli.table import table

    task = loaded(args.model)
    from anemone.training.evaluation import evaluate

    metrics = evaluate(task, args.data, batch_size=args.batch_size)
    if args.json:
        print(json.dumps({"model": args.model, "data": args.data, **metrics}))
    else:
        print(table([{"metric": name, "value": value} for name, value in metrics.items()]))
    return 0
