"""Pseudo-labels: a manifest of recordings with what a model hears in them, and how sure it is.

What is done is kept, batch by batch, in a file beside the manifest to be; run again, the work goes on from there, and
the result is the same. A recording that cannot be used costs no other its text.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from anemone.checkpoint.atomic import atomic_file
from anemone.config import kind_of, must
from anemone.data.audio import Recordings
from anemone.data.files import find
from anemone.data.jsonlines import KEYS
from anemone.data.problems import SHOWN
from anemone.errors import ConfigError, DataError
from anemone.models import HEADS
from anemone.tasks.adapting import sum_of
from anemone.tasks.recognition import RecognitionTask
from anemone.tasks.task import Task

log = logging.getLogger("anemone.training")

Line = dict[str, Any]

AUDIO = KEYS["audio"]


class Labelled(NamedTuple):
    """What came of a manifest."""

    rows: int
    """Lines that were read."""

    kept: int
    """Lines that were written."""

    unsure: int
    """Lines left out because the model was not sure enough, or heard nothing."""

    bad: int
    """Lines that could not be used."""


def label(
    task: Task,
    source: str | Path,
    target: str | Path,
    *,
    min_confidence: float = 0.0,
    field: str = "text",
    batch_size: int = 16,
    tell: Callable[[int, int], None] = lambda more, total: None,
) -> Labelled:
    """Writes a manifest with what a model hears; all other columns stay.

    Each line gets the text, ``score``, the logarithm of the probability of the path that was decoded, and
    ``confidence``, its mean over frames (over tokens, of attention decoders) as a probability. What stood under the
    field before is kept under its name with ``_before``. Audio paths are written whole.

    Args:
        task: a recogniser.
        source: a manifest of JSON lines; they need no text.
        target: the new one.
        min_confidence: lines below it are left out.
        field: where the text goes.
        batch_size: recordings at once.
        tell: is told of how many more lines are done, of how many in all.

    Raises:
        ConfigError: the model is no recogniser, or a setting is impossible.
        DataError: the manifest does not exist, or none of its lines can be used.
    """
    kind = type(task).__name__
    if not isinstance(task, RecognitionTask):
        raise ConfigError(f"`model` must be one for recognition, but is a {kind} instead.", path="model")
    must(0 <= min_confidence <= 1, "min_confidence", "in 0..1", value=min_confidence)
    path, target = find(source, noun="manifest", pattern="*.jsonl"), Path(target)
    must(path.absolute() != target.absolute(), "out", "another file than the source", value=str(target))
    lines = path.read_text("utf-8-sig").removesuffix("\n").split("\n")  # JSON may hold other ends of lines
    notes = target.with_name(f"{target.name}.part")
    identity = hashlib.sha256(path.read_bytes()).hexdigest()
    header = {"source": identity, "model": sum_of(task.network.state_dict()), "config": task.config_tree()}
    done = _done(notes, json.dumps(header, ensure_ascii=False))
    tell(len(done), len(lines))
    with notes.open("a", encoding="utf-8") as file:
        for found in _heard(task, lines[len(done) :], path.parent, batch_size):
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in found)
            file.flush()
            os.fsync(file.fileno())
            done += found
            tell(len(found), len(lines))
    result = _written(target, path, lines, done, min_confidence, field)
    notes.unlink()
    return result


def _done(notes: Path, header: str) -> list[Line]:
    """What was done before; begins the notes anew where they are of other work, or none."""
    kept: list[str] = []
    if notes.is_file():
        rows = notes.read_text("utf-8", errors="replace").split("\n")[:-1]  # a line that was cut off is done again
        if rows and rows[0] == header:
            kept = rows[1:]
    notes.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(notes) as draft:
        draft.write_text("".join(f"{row}\n" for row in [header, *kept]), "utf-8")
    return [json.loads(row) for row in kept]


def _heard(task: RecognitionTask, lines: list[str], folder: Path, batch_size: int) -> Iterator[list[Line]]:
    """Yields what is heard in the recordings of lines, or what is wrong with them, some lines at a time."""
    recordings, rest = Recordings(task.rate, cache_mb=64), iter(lines)
    while some := list(islice(rest, 16 * batch_size)):
        found: list[Line] = []
        clips: dict[int, Any] = {}
        for number, line in enumerate(some):
            found.append({})
            try:
                if line.strip():
                    row = _row(line)
                    audio, offset, duration = _audio(row, folder), row.get("offset") or 0.0, row.get("duration")
                    clips[number] = recordings.piece(audio, offset, duration, channel=row.get("channel"))
            except DataError as error:
                found[number] = {"problem": str(error)}
        for number, answer in zip(clips, _answers(task, list(clips.values()), batch_size), strict=True):
            found[number] = answer
        yield found


def _row(line: str) -> Line:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {error}") from error
    if not isinstance(row, dict) or not any(isinstance(row.get(key), str) for key in AUDIO):
        raise DataError("must be an object with `audio_filepath`")
    for key in ("offset", "duration"):
        value = row.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError(f"`{key}` must be a number of seconds, but is {value!r} instead")
    return row


def _audio(row: Line, folder: Path) -> str:
    name = next(row[key] for key in AUDIO if isinstance(row.get(key), str))
    return str(folder.absolute() / Path(name).expanduser())


def _answers(task: RecognitionTask, clips: list[Any], batch_size: int) -> list[Line]:
    """What is heard in each clip; where one spoils the others, each alone."""
    attention = kind_of(HEADS, task.parts.task.head) == "attention"

    def read(output: Any) -> list[Line]:
        found = zip(task.hypotheses(output), output.x_len.tolist(), strict=True)
        return [
            {
                "text": task.read(best.tokens).text,
                "score": round(best.score, 4),
                "confidence": round(math.exp(best.score / max(1, len(best.tokens) + 1 if attention else frames)), 4),
            }
            for best, frames in found
        ]

    try:
        return task.answer(clips, batch_size, read)
    except DataError as error:
        if len(clips) == 1:
            return [{"problem": str(error)}]
        return [_answers(task, [clip], 1)[0] for clip in clips]


def _written(target: Path, path: Path, lines: list[str], done: list[Line], least: float, field: str) -> Labelled:
    """Writes the manifest, and says what was left out."""
    kept = unsure = bad = 0
    with atomic_file(target) as draft, draft.open("w", encoding="utf-8") as file:
        for number, (line, found) in enumerate(zip(lines, done, strict=True), start=1):
            if "problem" in found:
                bad += 1
                if bad <= SHOWN:
                    log.warning("%s:%d: %s", path, number, found["problem"])
            elif found and (not found["text"].strip() or found["confidence"] < least):
                unsure += 1
            elif found:
                kept += 1
                row = _row(line)
                row["audio_filepath"] = _audio(row, path.parent)
                row |= {f"{field}_before": row[field]} if field in row else {}
                row |= {field: found["text"], "score": found["score"], "confidence": found["confidence"]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if bad and not kept and not unsure:
            raise DataError(f"`{path}` has no line that can be used: {next(f['problem'] for f in done if f)}")
    return Labelled(kept + unsure + bad, kept, unsure, bad)
