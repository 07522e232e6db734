"""Write changed copies of the recordings of a data set, by a recipe.

  anemone data augment SOURCE RECIPE OUT --copies 3 --jobs 8

RECIPE is a YAML list of steps, such as `- speed: {factors: [0.9, 1.1], p: 0.5}`. OUT gets the recordings, a manifest
that says where each copy comes from and what was drawn for it, problems.jsonl, summary.png and samples to listen to.
Copy k is what training with this recipe and seed hears in epoch k; copy 0 is the unchanged recording. Killed at any
moment, the same command goes on, to the same bytes.
"""

import argparse

from anemone.cli import positive
from anemone.cli.bar import bar, left_out, length


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("source", metavar="SOURCE", nargs="+", help="manifests, or another source of utterances")
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file")
    parser.add_argument("out", metavar="OUT", help="a folder that is empty, or that this job was begun in")
    parser.add_argument("--copies", type=positive, default=1, metavar="N", help="changed copies (default 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default 0)")
    parser.add_argument(
        "--rate", type=positive, default=16_000, metavar="HZ", help="of what is written (default 16000)"
    )
    parser.add_argument("--channel", type=int, metavar="N", help="one channel, from 0; the mean of all by default")
    parser.add_argument("--format", choices=["wav", "flac"], default="wav", help="16-bit PCM either way (default wav)")
    parser.add_argument("--shards", type=positive, metavar="N", help="write so many tars")
    parser.add_argument("--shard-mb", type=float, metavar="MB", help="write tars of about this size")
    parser.add_argument(
        "--new-speakers", action="store_true", help="name speakers of faster or slower copies sp0.9-NAME and so on"
    )
    parser.add_argument(
        "--keep-original", action=argparse.BooleanOptionalAction, default=True, help="write the unchanged ones, too"
    )
    add_engine(parser)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Adds who does the work."""
    parser.add_argument("--jobs", type=positive, metavar="N", help="processes (default: one a core)")
    parser.add_argument(
        "--engine", choices=["jobs", "ray"], default="jobs", help="processes here, or a Ray cluster (RAY_ADDRESS)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the copies and says how many; returns 1 if some utterances could not be used, else 0."""
    from anemone.data.augmentation import Recipe
    from anemone.data.engines import engine
    from anemone.data.offline import OfflineConfig, augment_offline

    config = OfflineConfig(
        recipe=Recipe.read(args.recipe),
        copies=args.copies,
        seed=args.seed,
        rate=args.rate,
        channel=args.channel,
        format=args.format,
        shards=args.shards,
        shard_mb=args.shard_mb,
        new_speakers=args.new_speakers,
        keep_original=args.keep_original,
    )
    with bar() as tell:
        report = augment_offline(args.source, args.out, config, engine=engine(args.engine, args.jobs), tell=tell)
    before, after = map(length, report.seconds)
    print(f"{report.rows} utterances of {before} became {report.lines} of {after}: {report.manifest}")
    return left_out(len(report.problems), f"{report.manifest.with_name('problems.jsonl')}")
