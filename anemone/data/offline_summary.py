"""What was made, to see and to hear: a picture of durations, draws and spectrograms, and copies of a few utterances."""

import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from anemone.data import jobs
from anemone.data.audio import Signal
from anemone.data.jobs import Job, Line
from anemone.data.manifest import Index
from anemone.data.problems import log
from anemone.errors import DataError

PICTURE = "summary.png"
SHOWN = 3  # utterances to hear, and copies of each
MOST = 100_000  # lines whose draws the picture counts
FRAME = 0.025  # seconds of a spectrogram's window; the hop is 0.4 of it


def summarise(job: Job, out: Path, index: Index) -> None:
    """Writes ``samples/`` and ``summary.png`` into the folder of a job whose recordings are all there.

    Args:
        job: of an `Augmentation`.
        out: its folder.
        index: what it was made of.
    """
    heard = list(_heard(job, out, len(index)))
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        log.warning("%s is left out: it needs matplotlib, as in pip install 'anemone[tutorials]'", PICTURE)
        return
    made = (line for done in jobs.parts(job, out) for line in done.lines)
    lines = list(itertools.islice(made, MOST))
    _draw(job, out, lines, index, heard)


def _heard(job: Job, out: Path, rows: int) -> Any:
    """Writes copies of utterances from the whole length of the set, and yields each: title, samples."""
    work: Any = job.work
    for start in sorted({i * (rows - 1) // max(1, SHOWN - 1) for i in range(SHOWN)}):
        (row,) = job.rows(start, start + 1)
        try:
            audio = work.read(row)
        except DataError:
            continue
        for number in range(min(SHOWN, work.config.copies) + 1):
            samples, line = work.copy(audio, row, number)
            jobs.place(out, f"samples/{row['stem']}_c{number}.{work.config.format}", work.encoded(samples))
            yield line["id"], samples.astype(np.float32) / 32768


def _draw(job: Job, out: Path, lines: list[Line], index: Index, heard: list[tuple[str, Signal]]) -> None:
    """Draws the picture: durations, then what was drawn, then spectrograms."""
    from matplotlib.figure import Figure

    work: Any = job.work
    draws, columns = _draws(lines), 1 + SHOWN
    heard = heard[: 1 + min(SHOWN, work.config.copies)]  # of one utterance
    panels = 1 + len(draws) + len(heard)
    height = -(-panels // columns)
    figure = Figure(figsize=(3.5 * columns, 2.5 * height), dpi=80)
    figure.subplots_adjust(0.05, 0.25 / height, 0.99, 1 - 0.15 / height, 0.25, 0.5)
    axes = list(figure.subplots(height, columns, squeeze=False).flat)
    made = np.array([line["duration"] for line in lines])
    most = max(float(index.durations.max()), float(made.max(initial=0.0)))
    for seconds, name in ((index.durations, "before"), (made, "after")):
        axes[0].hist(seconds, np.linspace(0, most, 41), label=f"{name}: {len(seconds)}", alpha=0.6)
    axes[0].set(xlabel="seconds", ylabel="utterances")
    axes[0].legend()
    for axis, (name, values) in zip(axes[1:], draws.items(), strict=False):
        axis.hist(values, 30)
        axis.set(xlabel=name, ylabel="copies")
    for axis, (name, audio) in zip(axes[1 + len(draws) :], heard, strict=False):
        axis.imshow(_spectrogram(audio, work.config.rate), origin="lower", aspect="auto", vmin=-9, vmax=3)
        axis.set(title=name[-40:], xticks=[], yticks=[])
    for axis in axes[panels:]:
        axis.set_axis_off()
    path = jobs.draft(out, PICTURE)
    figure.savefig(path, format="png", metadata={"Software": None})
    path.replace(out / PICTURE)


def _draws(lines: list[Line]) -> dict[str, list[float]]:
    """The numbers that steps drew, by step and name."""
    found = defaultdict(list)
    for line in lines:
        for step, drawn in line["augmentation"].items():
            for name, value in drawn.items():
                if isinstance(value, int | float):
                    found[f"{step}: {name}"].append(float(value))
    return dict(found)


def _spectrogram(audio: Signal, rate: int) -> Signal:
    """Log power (F, T)."""
    size = int(FRAME * rate)
    padded = np.pad(audio, (0, max(0, size - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: int(0.4 * size)] * np.hanning(size)
    power: Signal = np.log(np.abs(np.fft.rfft(frames)) ** 2 + 1e-4).T.astype(np.float32)
    return power
