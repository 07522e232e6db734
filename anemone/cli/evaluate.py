"""Measure a model on manifests: JSON lines with `audio_filepath` and `text` or `label`; or on texts, .txt or .jsonl.

  anemone evaluate MODEL test.jsonl
  anemone evaluate MODEL test.jsonl --by speaker duration --save heard.jsonl --html report.html
  anemone evaluate heard.jsonl --against MODEL
  anemone evaluate heard.jsonl --against other_heard.jsonl

Of a recogniser there are error rates with 95 % intervals, slices by columns of the manifest, the commonest mistakes,
and a comparison with another system on the same utterances. What a system heard can be kept (`--save`) and stands for
it later; files with `text` and `pred_text` from elsewhere do as well.

Features of Kaldi are measured on where DATA is a feats.scp, or a folder with one and without wav.scp.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anemone.cli import positive
from anemone.errors import ConfigError, DataError

if TYPE_CHECKING:
    from anemone.metrics.recognition import Heard
    from anemone.tasks.task import States, Task

NORMS = ("none", "mean", "mean_and_variance")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("model", metavar="MODEL", help="an archive, a pretrained name, or what a recogniser heard")
    parser.add_argument("data", metavar="DATA", nargs="*", help="manifests or texts; assets/... lies in the package")
    parser.add_argument("--against", metavar="MODEL", help="another system, to compare with")
    parser.add_argument("--by", nargs="+", default=[], metavar="COLUMN", help="columns of the manifest to slice by")
    parser.add_argument("--save", metavar="FILE", help="write what was heard, as JSON lines with `pred_text`")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="rows at once (default 32)")
    parser.add_argument("--channel", type=int, metavar="N", help="which channel to hear, from 0 (default: their mean)")
    parser.add_argument("--cmvn", choices=NORMS, default="none", help="what Kaldi's features are normalised by")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the metrics, and the most frequent mistakes; of a recogniser further what was asked for."""
    from anemone.cli.table import table

    system = measured(args, args.model)
    if system.heard is None:
        refuse(args)
        found: dict[str, Any] = {"model": args.model, "data": args.data, **system.metrics}
        if args.json:
            confused = {} if system.mistakes is None else {"confusions": system.mistakes}
            print(json.dumps(found | confused, ensure_ascii=False))
            return 0
        from anemone.training.evaluation import told

        print(table([{"metric": name, "value": value} for name, value in told(system.metrics).items()]))
        if system.mistakes:
            print(f"\n{table(system.mistakes)}")
        return 0
    from anemone.cli.evaluation_report import as_page, as_text, compared
    from anemone.features.text import plain
    from anemone.metrics.recognition import report

    found = {"model": args.model, "data": args.data, **system.metrics, **report(system.heard, args.by, plain=plain)}
    if args.against:
        found |= compared((args.model, system.heard), (args.against, measured(args, args.against).heard))
    if args.save:
        save(Path(args.save), system.heard)
    if args.html:
        Path(args.html).write_text(as_page(found, system.heard), "utf-8")
    print(json.dumps(found, ensure_ascii=False) if args.json else as_text(found))
    return 0


def refuse(args: argparse.Namespace) -> None:
    """Raises ConfigError where something is asked for that only a recogniser has."""
    for name in ("against", "by", "save", "html"):
        if getattr(args, name):
            raise ConfigError(f"`--{name}` is for recognisers, but `{args.model}` is none.")


class System(NamedTuple):
    """What was found out about a model."""

    metrics: dict[str, float]

    mistakes: list[dict[str, Any]] | None
    """The confusions of a classifier."""

    heard: "list[Heard] | None"
    """Utterance by utterance, where it is a recogniser."""


def measured(args: argparse.Namespace, model: str) -> System:
    """Measures a model on the data, or reads what a recogniser heard earlier.

    Raises:
        ConfigError: a model without data.
    """
    if Path(model).suffix in (".jsonl", ".json"):
        return System({}, None, read(Path(model)))
    if not args.data:
        raise ConfigError(f"`DATA` must name manifests or texts to measure `{model}` on, but there is none.")
    from anemone.cli.recordings import loaded
    from anemone.tasks.recognition import RecognitionTask
    from anemone.training import evaluation

    task = loaded(model)
    how = {"batch_size": args.batch_size, "channel": args.channel, "cmvn": args.cmvn}
    data = evaluation.evaluation_data(task, args.data, **how)
    if isinstance(task, RecognitionTask):
        states, heard = evaluation.heard(task, args.data, data)
        return System(evaluation.summarize(task, states), None, heard)
    states = evaluation.states_of(task, args.data, data)
    return System(evaluation.summarize(task, states), confusions(task, states), None)


def save(path: Path, heard: "list[Heard]") -> None:
    """Writes what was heard: the columns of the manifest, with `text` and `pred_text`."""
    from anemone.checkpoint.atomic import atomic_write

    lines = []
    for row in heard:
        audio, offset = row.recording
        place = {"audio_filepath": audio, **({"offset": offset} if offset else {})} if audio else {}
        said = {"id": row.id, **place, **row.columns, "text": row.reference, "pred_text": row.hypothesis}
        lines.append(json.dumps(said, ensure_ascii=False) + "\n")
    atomic_write(path, "".join(lines).encode())


def read(path: Path) -> "list[Heard]":
    """Reads what a recogniser heard: JSON lines with `text` and `pred_text`.

    Raises:
        DataError: no such file, or a line that has no such strings; says which.
    """
    from anemone.data.jsonlines import parsed
    from anemone.data.locators import name_of
    from anemone.metrics.recognition import Heard

    if not path.is_file():
        raise DataError(f"`{path}` must be a file of what a recogniser heard, but is not there.")
    heard = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parsed(line)
            said, found = (row.pop(key, None) for key in ("text", "pred_text"))
            if not isinstance(said, str) or not isinstance(found, str):
                raise DataError("a line must have the strings `text` and `pred_text`.")
        except (DataError, ValueError) as error:
            raise DataError(f"{path}:{number}: {error}") from error
        recording = str(row.pop("audio_filepath", "")), float(row.pop("offset", 0) or 0)
        name = str(row.pop("id", "") or (name_of(*recording) if recording[0] else number))
        heard.append(Heard(name, said, found, row, recording))
    if not heard:
        raise DataError(f"`{path}` must hold lines of what a recogniser heard, but holds none.")
    return heard


def confusions(task: "Task", states: "States") -> list[dict[str, Any]] | None:
    """The most frequent mistakes of a classifier: label, what it was taken for, how often; None for other tasks."""
    from anemone.metrics.confusion import confused
    from anemone.tasks.classification import ClassificationTask

    if not isinstance(task, ClassificationTask):
        return None
    return [
        {"label": task.labels[label], "taken_for": task.labels[other], "times": number}
        for label, other, number in confused(states["confusion"])
    ]
