"""Tell the label of recordings, one line each: path, label, probability."""

import argparse

from anemone.cli import positive
from anemone.cli.recordings import add_recordings, answer


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    add_recordings(parser)
    parser.add_argument("--top", type=positive, default=1, metavar="N", help="the N most probable labels (default 1)")


def run(args: argparse.Namespace) -> int:
    """Prints the labels."""
    return answer(args, "classify", lambda found: _shown(found.scores, args.top))


def _shown(scores: dict[str, float], top: int) -> tuple[str, dict[str, object]]:
    """A line for people, and fields for programs."""
    best = sorted(scores.items(), key=lambda item: -item[1])[:top]
    fields: dict[str, object] = {"label": best[0][0], "score": best[0][1]}
    if top > 1:
        fields["scores"] = dict(best)
    return "\t".join(f"{label}\t{score:.4f}" for label, score in best), fields
