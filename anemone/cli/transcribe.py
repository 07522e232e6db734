"""Write down what is said in recordings, one line each: path, text.

  anemone transcribe MODEL a.wav b.wav
  anemone transcribe canary.nemo a.wav --language de --no-punctuation
  anemone transcribe canary.nemo a.wav --language en --slot task=translate --slot target_lang=de

The last two are for models that are given a prompt.
"""

import argparse
from typing import Any

from anemone.cli.recordings import add_recordings, answer
from anemone.errors import ConfigError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    add_recordings(parser)
    parser.add_argument("--language", metavar="CODE", help="what is spoken, and written unless a slot says otherwise")
    parser.add_argument("--slot", action="append", default=[], metavar="NAME=VALUE", help="fill a slot of the prompt")
    parser.add_argument("--no-punctuation", action="store_true", help="write neither punctuation nor capitals")


def run(args: argparse.Namespace) -> int:
    """Prints the texts."""
    asked = {
        "language": args.language,
        "punctuation": False if args.no_punctuation else None,
        "slots": dict(map(_slot, args.slot)),
    }
    return answer(args, "transcribe", _shown, {name: value for name, value in asked.items() if value not in (None, {})})


def _slot(text: str) -> tuple[str, str]:
    """Name and value of a slot.

    Raises:
        ConfigError: it is not written NAME=VALUE.
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"`--slot` must be written NAME=VALUE, but is {text!r} instead.")
    return name, value


def _shown(found: Any) -> tuple[str, dict[str, object]]:
    """A line for people, and fields for programs; the language where the model told it."""
    return found.text, {"text": found.text, **({"language": found.language} if found.language else {})}
