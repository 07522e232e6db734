"""Several runs of one experiment, one after the other: every combination of the values that overrides list."""

import csv
import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from anemone.cli.table import table
from anemone.errors import ConfigError
from anemone.training.settings import experiment

LONGEST = 120  # letters of a folder's name


def multirun(name: str, overrides: Sequence[str]) -> int:
    """Trains every combination, prints a table and writes it as ``summary.csv``; returns the exit status.

    Each run is a process of its own, so that nothing of one, not even its end by a signal, touches the next.

    Args:
        name: the experiment.
        overrides: ``key=value1,value2`` lists, in Hydra's grammar, beside plain ones.

    Raises:
        ConfigError: nothing is listed, or a combination does not decode. No run is started then.
    """
    combinations = sweep(overrides)
    if any(word.startswith("run.folder=") for word in combinations[0][1]):
        message = "`run.folder` must be one folder: `--multirun` makes one beside it for each combination."
        raise ConfigError(message, path="run.folder")
    root = Path(f"{experiment(name, overrides=combinations[0][0]).run.folder}_multirun")
    runs = []
    for words, listed in combinations:
        folder = root / folder_name(listed)
        words = [*words, f"run.folder='{folder}'"]
        experiment(name, words)
        runs.append((words, listed, folder))
    rows: list[dict[str, Any]] = []
    for number, (words, listed, folder) in enumerate(runs, start=1):
        print(f"run {number} of {len(runs)}: {' '.join(listed)}", flush=True)
        status = start([name, *words])
        if status:
            print(f"run {number} of {len(runs)} ended with status {status}", file=sys.stderr)
        finished = status == 0 and (folder / "results.json").exists()
        state = "done" if finished else "stopped" if status in (0, 130) else f"failed ({status})"
        row = dict(text.split("=", 1) for text in listed) | {"status": state}
        rows.append(row | (results(folder) if finished else {}) | {"folder": str(folder)})
        write(root / "summary.csv", rows)
        if state == "stopped":
            break
    print(table(rows))
    print(f"written to `{root / 'summary.csv'}`")
    states = {row["status"] for row in rows}
    return 130 if "stopped" in states else int(states != {"done"})


def start(words: Sequence[str]) -> int:
    """Runs `anemone train` in a process of its own and returns its exit status.

    Ctrl-C reaches that process, too; SIGTERM is passed on: it saves and leaves, and we wait for it.
    """
    with subprocess.Popen([sys.executable, "-m", "anemone", "train", *words]) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    continue
        finally:
            signal.signal(signal.SIGTERM, before)


def results(folder: Path) -> dict[str, float]:
    """Returns the metrics a finished run left in its folder."""
    found: dict[str, float] = json.loads((folder / "results.json").read_text("utf-8"))["metrics"]
    return found


def sweep(overrides: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Returns, for each combination, all its overrides and, of these, the ones that vary.

    Example:
        >>> sweep(["a=1,2", "b=[3,4]"])
        [(['a=1', 'b=[3,4]'], ['a=1']), (['a=2', 'b=[3,4]'], ['a=2'])]

    Raises:
        ConfigError: no override lists several values, or one cannot be read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    choices: list[list[str]] = []
    for text in overrides:
        try:
            parsed = OverridesParser.create().parse_override(text)
            values = list(parsed.sweep_string_iterator()) if parsed.is_sweep_override() else None
        except HydraException as error:
            raise ConfigError(f"`{text}` must be key=value or key=value1,value2: {error}") from error
        choices.append([text] if values is None else [f"{text.partition('=')[0]}={value}" for value in values])
    varying = [len(choice) > 1 for choice in choices]
    if not any(varying):
        raise ConfigError("`--multirun` must have an override that lists values, such as optim.lr=0.1,0.01.")
    return [
        (list(words), [word for word, varies in zip(words, varying, strict=True) if varies])
        for words in itertools.product(*choices)
    ]


def folder_name(listed: Sequence[str]) -> str:
    """Returns a name that any file system takes, a different one for different overrides."""
    text = ",".join(listed)
    name = re.sub(r"[^\w.=,+-]", "_", text)
    if name == text and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}-{sha256(text.encode()).hexdigest()[:8]}"


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows as CSV; a column of any row is a column of all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
