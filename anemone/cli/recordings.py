"""What `classify` and `transcribe` share: recordings in, a line for each out."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from anemone.cli import positive
from anemone.config import EMPTY
from anemone.errors import ConfigError, DataError

CONTROLS = dict.fromkeys([*range(9), *range(10, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")
"""Characters that could steer a terminal; the labels and tokens of a stranger's model may hold any."""


def add_recordings(parser: argparse.ArgumentParser) -> None:
    """Adds a model, recordings and how answers are printed."""
    parser.add_argument("model", metavar="MODEL", help="an archive (.anemone, .nemo, a folder), or a pretrained name")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="recordings: wav, flac, ogg, mp3, opus")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="recordings at once (default 16)")


def answer(
    args: argparse.Namespace,
    verb: str,
    shown: Callable[[Any], tuple[str, dict[str, object]]],
    asked: Mapping[str, Any] = EMPTY,
) -> int:
    """Prints one line for each recording, in the order they were given; returns 2 if some could not be used, else 0.

    One that cannot be used is told on standard error, and costs no other its answer.

    Args:
        args: what `add_recordings` parsed.
        verb: a method of the task.
        shown: from one answer to the text of its line and the fields of its JSON object.
        asked: further arguments of the method.

    Raises:
        ConfigError: the model's task has no such verb.
        DataError: a recording is not there.
    """
    for path in args.audio:
        if not Path(path).is_file():
            raise DataError(f"`{path}` must be a recording that exists.{nearest_file(path)}")
    method, status = partial(getattr(task_for(args.model, verb), verb), **asked), 0
    size = args.batch_size * 16
    for start in range(0, len(args.audio), size):
        for path, found in _answers(method, args.audio[start : start + size], args.batch_size):
            if isinstance(found, DataError):
                print(f"anemone {verb}: {' '.join(str(found).split())}", file=sys.stderr)
                status = 2
                continue
            text, fields = shown(found)
            plain = f"{path}\t{text.translate(CONTROLS)}"
            print(json.dumps({"audio": path, **fields}, ensure_ascii=False) if args.json else plain, flush=True)
    return status


def _answers(method: Callable[..., list[Any]], paths: list[str], batch_size: int) -> list[tuple[str, Any]]:
    """Each path with its answer, or with what is wrong with it."""
    try:
        return list(zip(paths, method(paths, batch_size=batch_size), strict=True))
    except DataError as error:
        if len(paths) == 1:
            return [(paths[0], error)]
    return [pair for path in paths for pair in _answers(method, [path], 1)]


def task_for(model: str, verb: str) -> Any:
    """Loads a task that has a verb.

    Raises:
        ArchiveError: there is neither a file nor a pretrained model of that name.
        ConfigError: the task has another verb.
    """
    task = loaded(model)
    if task.verb != verb:
        kind = task.config_tree()["task"]["kind"]
        raise ConfigError(f"`{model}` is a model for {kind}: use `anemone {task.verb}`.")
    return task


def loaded(model: str) -> Any:
    """Loads a task by path or name; says so at once, before PyTorch is imported, if there is none.

    Raises:
        ArchiveError: there is neither a file nor a pretrained model of that name.
    """
    from anemone.checkpoint.registry import resolve

    path = resolve(model)
    from anemone.tasks import load

    return load(path)


def nearest_file(path: str) -> str:
    """Advice with the closest name of a file beside a missing one, or an empty string."""
    import difflib

    folder = Path(path).parent
    names = [found.name for found in folder.iterdir()] if folder.is_dir() else []
    close = difflib.get_close_matches(Path(path).name, names, n=1)
    return f" Did you mean `{folder / close[0]}`?" if close else ""
