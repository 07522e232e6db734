"""Write a data set as tars that are read by offset.

  anemone data shard SOURCE OUT --shards 128
  anemone data shard SOURCE OUT --shard-mb 500

OUT gets audio_0.tar, audio_1.tar, ..., and two manifests of what is in them: manifest.jsonl says where in its tar each
recording lies; tarred_audio_manifest.json is NeMo's, to be read with audio__OP_0..127_CL_.tar. Recordings go in as they
are; pieces of longer ones are cut out. Killed at any moment, the same command goes on, to the same bytes.
"""

import argparse

from anemone.cli import positive
from anemone.cli.bar import bar, left_out, length
from anemone.cli.data_augment import add_engine


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("source", metavar="SOURCE", nargs="+", help="manifests, or another source of utterances")
    parser.add_argument("out", metavar="OUT", help="a folder that is empty, or that this job was begun in")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--shards", type=positive, metavar="N", help="number of tars")
    size.add_argument("--shard-mb", type=float, metavar="MB", help="MiB of a tar at most")
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the tars and says how many utterances are in them; returns 1 if some could not be used, else 0."""
    from anemone.data.engines import engine
    from anemone.data.sharding import shard

    does = engine(args.engine, args.jobs)
    with bar() as tell:
        report = shard(args.source, args.out, shards=args.shards, shard_mb=args.shard_mb, engine=does, tell=tell)
    print(f"{report.lines} utterances of {length(report.seconds[1])}: {report.manifest}")
    return left_out(len(report.problems), f"{report.manifest.with_name('problems.jsonl')}")
