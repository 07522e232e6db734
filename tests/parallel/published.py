"""Published training runs, of `tests/golden/published_runs.yaml`, beside what the planner says of them.

`python -m tests.parallel.published` prints the table of docs/planner.md, and the sentence above it.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from anemone.cli.plan import degrees
from anemone.parallel.hardware import GPU, gpu_named
from anemone.parallel.memory import Decoder, Layout
from anemone.parallel.prediction import Job, Prediction, predict

FILE = Path(__file__).parents[1] / "golden" / "published_runs.yaml"
TREE = yaml.safe_load(FILE.read_text("utf-8"))
SOURCES: dict[str, str] = TREE["sources"]
DECODERS = {name: Decoder(**numbers) for name, numbers in TREE["models"].items()}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One published measurement."""

    source: str
    model: str
    gpu: str
    layout: Layout
    sequence_len: int
    micro_batch: int
    micro_batches: int
    tokens_per_second: float
    """Of one GPU."""
    calibrated: bool = False
    """Whether constants of `hardware.py` and `costs.py` were fitted to it; all others are judged only."""
    network: float | None = None

    @property
    def hardware(self) -> GPU:
        """On what it ran."""
        gpu = gpu_named(self.gpu)
        return gpu if self.network is None else replace(gpu, slow=self.network)

    @cached_property
    def predicted(self) -> Prediction:
        """What the planner says of it."""
        job = Job(DECODERS[self.model], self.sequence_len, self.micro_batch, self.micro_batches)
        return predict(job, self.layout, self.hardware)

    @property
    def error(self) -> float:
        """Relative error of the predicted tokens a second."""
        return self.predicted.tokens_per_second / self.tokens_per_second - 1


def _runs() -> list[Run]:
    made = []
    for group in TREE["groups"]:
        usual = {key: value for key, value in group.items() if key != "runs"}
        made += [Run(**(usual | run | {"layout": Layout(**usual["layout"] | run["layout"])})) for run in group["runs"]]
    return made


RUNS = _runs()
ERRORS = [abs(run.error) for run in RUNS if not run.calibrated]
"""Of the runs that nothing was fitted to."""


def rows() -> list[dict[str, Any]]:
    """The table: every run, what was predicted, and by how much it is off."""
    return [
        {
            "source": run.source,
            "model": run.model,
            "GPUs": run.layout.world,
            "GPU": run.gpu,
            "layout": degrees(run.layout),
            "precision": run.layout.precision,
            "sequence": run.sequence_len,
            "published": f"{run.tokens_per_second:,.0f}",
            "predicted": f"{run.predicted.tokens_per_second:,.0f}",
            "error": f"{run.error:+.0%}" + (" (calibrated)" if run.calibrated else ""),
        }
        for run in RUNS
    ]


def table() -> str:
    """The same in Markdown."""
    found = rows()
    body = ["| " + " | ".join(map(str, cells)) + " |" for cells in [found[0], *(row.values() for row in found)]]
    return "\n".join([body[0], "|" + "---|" * len(found[0]), *body[1:]])


def summary() -> str:
    """The error over all runs that are judged."""
    within = sum(error < 0.2 for error in ERRORS)
    return f"It is {100 * median(ERRORS):.1f} % over {len(ERRORS)} runs; {within} of them lie within 20 %."


if __name__ == "__main__":
    print(f"{summary()}\n\n{table()}")
