"""Write several data sets as one manifest.

  anemone data merge SOURCE SOURCE ... OUT

An utterance that stands in several sources comes once; of different utterances with one id the later ones are renamed,
with -2, -3, ... after it, and both is said. The recordings stay where they are.
"""

import argparse

from anemone.cli.bar import left_out

SHOWN = 5


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("source", metavar="SOURCE", nargs="+", help="manifests, or other sources of utterances")
    parser.add_argument("out", metavar="OUT", help="the new manifest, such as all.jsonl")


def run(args: argparse.Namespace) -> int:
    """Writes the manifest and says what is in it; returns 1 if some lines could not be used, else 0."""
    from anemone.data.merging import merge

    merged = merge(args.source, args.out)
    for source, rows in merged.rows.items():
        print(f"{source}: {rows} utterances")
    if merged.twice:
        print(f"{len(merged.twice)} stood in several and come once: {_some(merged.twice)}")
    if merged.renamed:
        print(f"{len(merged.renamed)} had the id of another: {_some([f'{a} is now {b}' for a, b in merged.renamed])}")
    print(f"{merged.lines} utterances: {args.out}")
    return left_out(len(merged.problems), "as said above")


def _some(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
