"""Write a data set in another format.

  anemone data convert SOURCE... TARGET [--from FORMAT] [--to FORMAT]

Formats are told from what is there, and from the target's name; a folder to write needs `--to`. Recordings stay where
they are unless the target has to hold them (tarred, shar, parquet, audiofolder, librispeech), or could not find them.
Rows that cannot be used are said and left out; the status is then 1.
"""

import argparse

SHOWN = 20  # problems written out


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    from anemone.data.sources import SOURCES

    lines = [f"  {name:<12} {about.what}" for name, about in SOURCES.items()]
    parser.epilog = "\n".join(["formats:", *lines])
    parser.add_argument(
        "source", metavar="SOURCE", nargs="+", help="files, folders, or patterns such as a_{0..7}.jsonl"
    )
    parser.add_argument("target", metavar="TARGET", help="file or folder to write")
    parser.add_argument("--from", dest="of", choices=list(SOURCES), metavar="FORMAT", help="of the sources")
    parser.add_argument("--to", choices=list(SOURCES), metavar="FORMAT", help="of the target")
    parser.add_argument(
        "--trust-commands", action="store_true", help="run the commands that a Kaldi folder's wav.scp has"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the target and says what was left out."""
    import sys

    from anemone.data.sources.convert import convert

    done = convert(args.source, args.target, of=args.of, to=args.to, trust_commands=args.trust_commands)
    for problem in done.problems[:SHOWN]:
        print(problem, file=sys.stderr)
    if done.problems:
        print(f"left out {len(done.problems)} of {done.rows + len(done.problems)} utterances", file=sys.stderr)
    print(f"{args.target}: {done.rows} utterances")
    return 1 if done.problems else 0
