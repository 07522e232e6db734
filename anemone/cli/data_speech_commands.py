"""Make manifests of Google's Speech Commands.

  anemone data speech-commands DIR [OUT]

reads Google's Speech Commands as it is unpacked (a folder a word, `validation_list.txt`, `testing_list.txt`,
`_background_noise_`) and writes train, validation and test manifests to OUT, by default where the experiments look for
them.
"""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("folder", metavar="DIR", help="where it is unpacked")
    parser.add_argument(
        "out",
        metavar="OUT",
        nargs="?",
        default="data/speech_commands",
        help="where manifests are written (default data/speech_commands)",
    )
    parser.add_argument("--version", choices=["v1", "v2", "auto"], default="auto", help="by default found out")
    parser.add_argument(
        "--classes", choices=["all", "12"], default="all", help="all words, or ten with _unknown_ and _silence_"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the manifests and says where."""
    from anemone.data.speech_commands import prepare

    for name, path in prepare(args.folder, args.out, version=args.version, classes=args.classes).items():
        print(f"{name}: {path}")
    return 0
