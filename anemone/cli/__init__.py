"""The command line: ``anemone VERB ...``, one file a verb.

A verb's module has ``arguments(parser)`` and ``run(args)``. It is imported when its verb is asked for, and imports
what it needs when it runs, so that help and completion load neither PyTorch nor Hydra.

Exit status: 0 done; 1 part of the work failed, or a mistake of our own; 2 a mistake in what was asked for, as one line
on stderr; 130 interrupted. ``ANEMONE_DEBUG=1`` shows the traceback of a mistake.
"""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from anemone.config import nearest
from anemone.errors import AnemoneError, ConfigError

VERBS = {
    "train": "train an experiment, or go on where it stopped",
    "evaluate": "measure a model on data whose answers are known",
    "classify": "tell the label of recordings",
    "transcribe": "write down what is said in recordings",
    "generate": "continue texts",
    "models": "list the pretrained models",
    "convert": "write a model in another format",
    "inspect": "show what a model or an experiment is made of",
    "launch": "print the file that starts a run on a cluster, or submit it",
    "parity": "prove that a layout computes what one process does",
    "plan": "predict what fits on some GPUs, and how fast it would train",
    "config": "print the settings of an experiment, decoded",
    "data": "prepare data sets: convert, augment, measure and divide them",
    "tokenizer": "make tokenizers of texts",
    "completion": "print a script that makes a shell complete all this",
}
GROUPS = ("data", "tokenizer")
"""Verbs that have verbs of their own, in a table ``VERBS``."""


def positive(text: str) -> int:
    """Reads a number of things, 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, but is {text!r} instead")
    return number


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line each."""

    def error(self, message: str) -> NoReturn:
        """Raises what `main` prints."""
        raise ConfigError(f"{message} (`{self.prog} --help` says how it is used)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit status.

    Args:
        argv: words after ``anemone``; those the program was started with by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    said = "anemone"
    try:
        if words[:1] == ["complete"]:  # what the completion scripts call
            from anemone.cli.completion import complete

            return complete(words[1:])
        verb, rest = _verb(words)
        said = f"anemone {verb}"
        status = run(verb, rest)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"{said}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed at exit
        return 141
    except (AnemoneError, OSError) as error:
        if os.environ.get("ANEMONE_DEBUG"):
            raise
        print(f"{said}: {_line(error)}", file=sys.stderr)
        return 2


def run(verb: str, words: Sequence[str]) -> int:
    """Runs one verb on the words after it and returns its exit status.

    Raises:
        AnemoneError: something is wrong with what was asked for.
    """
    verb, words = within(verb, words)
    parser, module = parser_of(verb)
    args, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        raise ConfigError(f"`{unknown[0]}` is not an option of `{parser.prog}`.{nearest(unknown[0], options)}")
    if verb in GROUPS:
        raise ConfigError(f"`{args.verb}` must stand right after `anemone {verb}`.")
    return int(module.run(args))


def within(verb: str, words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Returns a verb with the verb that it is given, such as ``data convert``, and the words that are left.

    Raises:
        ConfigError: there is no such verb in the group.
    """
    if verb not in GROUPS or not words or words[0].startswith("-"):
        return verb, words
    verbs = importlib.import_module(f"anemone.cli.{verb}").VERBS
    if words[0] not in verbs:
        advice = nearest(words[0], [*verbs, "--help"])
        raise ConfigError(f"`{words[0]}` is not a verb of `anemone {verb}`.{advice} There are: {', '.join(verbs)}.")
    return f"{verb} {words[0]}", words[1:]


def parser_of(verb: str) -> tuple[argparse.ArgumentParser, Any]:
    """Returns the parser of a verb, such as ``train`` or ``data convert``, and its module."""
    module = importlib.import_module("anemone.cli." + re.sub("[ -]", "_", verb))
    parser = Parser(prog=f"anemone {verb}", description=module.__doc__, allow_abbrev=False, formatter_class=_Plain)
    if verb in GROUPS:
        list_verbs(parser, module.VERBS)
    else:
        module.arguments(parser)
    return parser, module


def list_verbs(parser: argparse.ArgumentParser, verbs: Mapping[str, str]) -> None:
    """Lets a verb take one of its own verbs, and its help list them.

    Args:
        parser: of the verb.
        verbs: name -> what it does, in a line.
    """
    width = max(map(len, verbs))
    lines = [f"  {name:<{width}}  {line}" for name, line in verbs.items()]
    parser.usage = f"{parser.prog} VERB ..."
    parser.epilog = "\n".join(["verbs:", *lines, "", f"`{parser.prog} VERB --help` says how a verb is used."])
    parser.add_argument("verb", metavar="VERB", choices=list(verbs), help="one of those below")


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of a description."""


def _verb(words: list[str]) -> tuple[str, list[str]]:
    """Splits the first word off; says what there is, and ends, where help or the version is asked for."""
    parser = Parser(
        prog="anemone",
        description="Train, adapt and run models of speech and text.",
        epilog="`anemone VERB --help` says how a verb is used.",
        allow_abbrev=False,
        formatter_class=_Plain,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_argument_group("verbs")
    for name, line in VERBS.items():
        verbs.add_argument(name, nargs="?", help=line)
    if not words or words[0] in ("-h", "--help", "help"):
        parser.usage = "anemone VERB ..."
        parser.print_help()
        raise SystemExit(0 if words else 2)
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("anemone"))
        raise SystemExit(0)
    if words[0] not in VERBS:
        advice = nearest(words[0], [*VERBS, "--help", "--version"])
        raise ConfigError(f"`{words[0]}` is not a verb.{advice} There are: {', '.join(VERBS)}.")
    return words[0], words[1:]


def _line(error: Exception) -> str:
    """What an error says, on one line."""
    return re.sub(r"\s*\n\s*", " ", str(error).strip()) or type(error).__name__
