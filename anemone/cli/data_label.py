"""Write a manifest with what a model hears in its recordings: pseudo-labels.

  anemone data label english.anemone unlabelled.jsonl labelled.jsonl --min-confidence 0.9

Each line gets `text`, `score` and `confidence`, and keeps its other columns; a text that it has already is kept as
`text_before`. Lines whose recording cannot be used are told and left out. Killed at any moment, the same command goes
on.
"""

import argparse

from anemone.cli import positive


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("model", metavar="MODEL", help="an archive (.anemone, .nemo, a folder), or a pretrained name")
    parser.add_argument("source", metavar="IN", help="a manifest of JSON lines; it needs no text")
    parser.add_argument("out", metavar="OUT", help="the new manifest")
    parser.add_argument(
        "--min-confidence", type=float, default=0.0, metavar="P", help="leave out lines below, 0..1 (default 0)"
    )
    parser.add_argument("--field", default="text", metavar="NAME", help="where the text goes (default text)")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="recordings at once (default 16)")


def run(args: argparse.Namespace) -> int:
    """Writes the manifest and says how much it holds; returns 1 if some lines could not be used, else 0."""
    from anemone.cli.bar import bar
    from anemone.cli.recordings import loaded

    task = loaded(args.model)
    from anemone.training.labelling import label

    with bar() as tell:
        found = label(
            task,
            args.source,
            args.out,
            min_confidence=args.min_confidence,
            field=args.field,
            batch_size=args.batch_size,
            tell=tell,
        )
    print(f"{found.kept} of {found.rows} lines: {args.out} ({found.unsure} unsure, {found.bad} unusable)")
    return int(found.bad > 0)
