"""Write down what is said in recordings, one line each: path, text."""

import argparse

from anemone.cli.recordings import add_recordings, answer


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    add_recordings(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the texts."""
    return answer(args, "transcribe", lambda found: (found.text, {"text": found.text}))
