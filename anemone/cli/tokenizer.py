"""Make and look at tokenizers.

  anemone tokenizer VERB ...

One file a verb, ``tokenizer_VERB.py``, imported when its verb is asked for.
"""

import argparse

from anemone.errors import ConfigError

VERBS = {
    "train": "make a tokenizer of texts or manifests",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {line}" for name, line in VERBS.items()]
    parser.usage = "anemone tokenizer VERB ..."
    parser.epilog = "\n".join(["verbs:", *lines, "", "`anemone tokenizer VERB --help` says how a verb is used."])
    parser.add_argument("verb", metavar="VERB", choices=list(VERBS), help="one of those below")


def run(args: argparse.Namespace) -> int:
    """Never does anything: with a verb in its place, the verb's module runs."""
    raise ConfigError(f"`{args.verb}` must stand right after `anemone tokenizer`.")
