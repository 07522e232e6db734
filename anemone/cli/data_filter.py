"""Keep the rows of which a condition holds.

  anemone data filter SOURCE "duration < 20 and char_rate > 3" OUT.jsonl

The condition is one boolean expression of SQL over the keys of the manifest (`duration`, `offset`, `text` or `label`,
`audio`, `id`, `speaker`, `meta.snr`, ...) and `chars`, `words`, `char_rate` and `word_rate` (by the second). A row of
which it is unknown, since a key is missing, does not hold. Lines are copied as they are; recordings stay where they
lie. Without OUT the rows are only counted.
"""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("source", metavar="SOURCE", help="a manifest, or another data set")
    parser.add_argument("condition", metavar="CONDITION", help='what must hold, such as "duration < 20"')
    parser.add_argument("out", metavar="OUT", nargs="?", help="the manifest to write: .jsonl, or .jsonl.gz")
    parser.add_argument("-o", "--output", metavar="OUT", help="the same")
    parser.add_argument("--invert", action="store_true", help="keep the other rows")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="the condition may take (default 30)")


def run(args: argparse.Namespace) -> int:
    """Writes the manifest and says how much is kept."""
    import numpy as np

    from anemone.config import must
    from anemone.data.columns import opened
    from anemone.data.lines import write_lines
    from anemone.data.query import select

    must(args.seconds > 0, "--seconds", "above 0", value=args.seconds)
    out = args.out or args.output
    index = opened([args.source])
    rows = select(index, args.condition, seconds=args.seconds)
    if args.invert:
        rows = np.setdiff1d(np.arange(len(index)), rows, assume_unique=True)
    hours = float(index.durations[rows].sum(dtype="float64")) / 3600
    print(f"{len(rows):,} of {len(index):,} rows, {hours:.2f} of {index.seconds / 3600:.2f} h")
    if out:
        print(write_lines(index, rows, out))
    return 0
