"""Trains QuartzNet on recorded command words, says how good it is, saves it, and uses it from a new process.

    make demo

Everything is written below ``runs/demo``; a finished part is not done again, so a second call is quick.
"""

import json
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

import anemone
from anemone.data.audio import load_audio
from anemone.data.manifest import Index
from anemone.tasks.task import Task
from anemone.training.experiment import TrainResult, train
from anemone.training.settings import experiment

EXPERIMENT = "telephone_words_quartznet"
WORDS = Path(anemone.__file__).parent / "assets" / "telephone_words"
FOLDER = Path("runs/demo")
RATE = 16_000
CONTROL_STEPS = 400

console = Console()


def run(name: str, *overrides: str) -> TrainResult:
    """Trains the experiment in a folder of its own, or goes on where an earlier call was cut off."""
    settings = [f"run.folder={FOLDER / name}", *overrides]
    console.print(f"\n[bold]anemone train {EXPERIMENT} {' '.join(settings)}[/bold]")
    return train(experiment(EXPERIMENT, settings))


def shuffled_manifest() -> Path:
    """Writes the training manifest with its labels dealt out at random: what is learnt from it must be nothing."""
    rows = [json.loads(line) for line in (WORDS / "train.jsonl").read_text("utf-8").splitlines()]
    labels = [row["label"] for row in rows]
    random.Random(0).shuffle(labels)
    path = FOLDER / "shuffled_train.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    changed = [
        row | {"audio_filepath": str((WORDS / row["audio_filepath"]).absolute()), "label": label}
        for row, label in zip(rows, labels, strict=True)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in changed), "utf-8")
    return path


def held_out() -> tuple[list[np.ndarray], list[str]]:
    """Recordings and labels of the prompts that training never heard."""
    index = Index.read([WORDS / "test.jsonl"], target="label")
    rows = [index.row(i) for i in range(len(index))]
    return [load_audio(r.audio, RATE, offset=r.offset, duration=r.duration) for r in rows], [r.target for r in rows]


def language(label: str) -> str:
    """The part of ``en:press`` before the colon."""
    return label.partition(":")[0]


def accuracy(said: Sequence[str], true: Sequence[str]) -> float:
    """Share of equal items, in percent."""
    return 100 * sum(a == b for a, b in zip(said, true, strict=True)) / len(true)


def commonest() -> dict[str, str]:
    """Language, or "all" -> the label most often heard in training: the best guess without listening to the word."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for line in (WORDS / "train.jsonl").read_text("utf-8").splitlines():
        label = json.loads(line)["label"]
        counts[language(label)][label] += 1
        counts["all"][label] += 1
    return {lang: count.most_common(1)[0][0] for lang, count in counts.items()}


def predict(task: Task, recordings: Sequence[np.ndarray]) -> list[str]:
    """The label the model hears in each recording."""
    return [result.label for result in task.classify([(x, RATE) for x in recordings], batch_size=64)]


def report(said: list[str], control: list[str], true: list[str]) -> float:
    """Prints the score beside what a machine that learnt nothing would reach; returns the score in percent."""
    guess = commonest()
    guessed = [guess[language(label)] for label in true]
    chance = accuracy([guess["all"]] * len(true), true)
    table = Table("held-out", "takes", "words", "accuracy", "language alone", "shuffled labels")
    for lang in [*sorted(guess.keys() - {"all"}), "all"]:
        rows = [i for i, label in enumerate(true) if lang in ("all", language(label))]
        scores = [accuracy([x[i] for i in rows], [true[i] for i in rows]) for x in (said, guessed, control)]
        words = str(len({true[i] for i in rows}))
        table.add_row(lang, str(len(rows)), words, *(f"{score:.1f} %" for score in scores))
    console.print(table)
    mistakes = Counter((t, s) for t, s in zip(true, said, strict=True) if t != s).most_common(8)
    table = Table("said", "heard as", "times")
    for (t, s), count in mistakes:
        table.add_row(t, s, str(count))
    console.print(table)
    console.print(
        "One voice a language, the same in training and test, in a studio: the score says that words in new sentences "
        "are recognised, not that new speakers are. 'Language alone' names the commonest word of the right language. "
        f"'Shuffled labels' is the same net after {CONTROL_STEPS} steps on labels dealt out at random; always naming "
        f"the commonest word of all, {guess['all']}, would reach {chance:.1f} %."
    )
    return accuracy(said, true)


def main() -> None:
    start = time.perf_counter()
    result = run("quartznet_tiny")
    trained = time.perf_counter() - start
    control = run(
        "shuffled_labels",
        f"data.train={shuffled_manifest()}",
        f"trainer.max_steps={CONTROL_STEPS}",
    )
    recordings, true = held_out()
    score = report(predict(result.task, recordings), predict(control.task, recordings), true)

    archive = result.folder / "model.anemone"
    size = archive.stat().st_size / 1e6
    wav = FOLDER / f"held_out_{true[0].replace(':', '_')}.wav"
    soundfile.write(wav, recordings[0], RATE)
    console.print(f"\n[bold]anemone classify {archive} {wav}[/bold]    (a new process; the archive has {size:.1f} MB)")
    command = [sys.executable, "-m", "anemone", "classify", str(archive), str(wav)]
    subprocess.run(command, check=True)
    console.print(
        f"\naccuracy {score:.1f} % on {len(true)} held-out takes; training took {trained:.0f} s, "
        f"everything {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
