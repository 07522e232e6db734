"""List the pretrained models: what `anemone classify`, `transcribe`, `evaluate` and `inspect` take by name."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with all fields")


def run(args: argparse.Namespace) -> int:
    """Prints the registry."""
    import dataclasses
    import json

    from anemone.checkpoint.registry import pretrained
    from anemone.cli.table import table

    entries = pretrained()
    if args.json:
        for entry in entries:
            print(json.dumps(dataclasses.asdict(entry), ensure_ascii=False))
    elif entries:
        rows = [
            {
                "name": entry.name,
                "task": entry.task,
                "language": " ".join(entry.language),
                "licence": entry.licence,
                "size": f"{entry.size / 1e6:.1f} MB",
                "sha256": entry.sha256[:12],
                "origin": entry.origin,
                "description": entry.description,
            }
            for entry in entries
        ]
        print(table(rows))
    else:
        print("no pretrained models are registered")
    return 0
