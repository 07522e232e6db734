"""Divide a data set in parts that have no speaker (or another key) in common.

  anemone data split SOURCE OUT --parts train=0.8,valid=0.1,test=0.1 --by speaker

writes OUT/train.jsonl and so on. A hash of the key tells the part, so the same command gives the same parts, and a set
that grows keeps them. `--stratify label` gives every part its share of each label, `--exact` meets the shares as nearly
as the groups allow; with either a set that grows may move rows.
"""

import argparse

from anemone.errors import ConfigError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("source", metavar="SOURCE", help="a manifest, or another data set")
    parser.add_argument("out", metavar="OUT", help="the folder for the manifests")
    parser.add_argument(
        "--parts",
        type=shares,
        default="train=0.8,valid=0.1,test=0.1",
        metavar="NAME=SHARE,...",
        help="default train=0.8,valid=0.1,test=0.1",
    )
    parser.add_argument("--by", metavar="KEY", help="default: speaker, where all rows have one, else the recording")
    parser.add_argument("--stratify", metavar="KEY", help="a key whose values all parts get in proportion")
    parser.add_argument("--exact", action="store_true", help="meet the shares as nearly as possible")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another one gives other parts (default 0)")


def shares(text: str) -> dict[str, float]:
    """Reads names and shares, such as ``train=0.9,test=0.1``."""
    found: dict[str, float] = {}
    for item in text.split(","):
        name, _, share = item.partition("=")
        try:
            number = float(share)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be NAME=SHARE with commas between, but is {text!r}") from None
        if not name.replace("-", "_").isidentifier() or name in found:
            raise argparse.ArgumentTypeError(f"must name each part once, by letters, digits, - and _, but is {text!r}")
        found[name] = number
    return found


def run(args: argparse.Namespace) -> int:
    """Writes the manifests and says what is in each."""
    from pathlib import Path

    import numpy as np

    from anemone.cli.table import table
    from anemone.data.columns import Columns, opened
    from anemone.data.lines import write_parts
    from anemone.data.split import split

    if Path(args.out).is_file():
        raise ConfigError(f"`{args.out}` must be a folder, but is a file.")
    index = opened([args.source])
    columns = Columns(index)
    whole = "speaker" in columns and not columns["speaker"].null_count
    by = args.by or ("speaker" if whole else "audio")
    found = split(index, args.parts, by=by, stratify=args.stratify, exact=args.exact, seed=args.seed)
    paths = write_parts(index, {str(Path(args.out) / f"{name}.jsonl"): rows for name, rows in found.items()})
    values = columns[by].combine_chunks()
    lines = []
    for (name, rows), path in zip(found.items(), paths, strict=True):
        hours = round(float(index.durations[rows].sum(dtype="float64")) / 3600, 3)
        share = round(len(rows) / len(index), 4)
        groups = len(values.take(np.asarray(rows)).unique())
        lines.append(
            {"part": name, "rows": len(rows), "share": share, "hours": hours, by: groups, "manifest": str(path)}
        )
    print(table(lines))
    return 0
