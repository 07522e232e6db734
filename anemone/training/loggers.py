"""Where metrics go: always a table and TensorBoard, on request Weights & Biases and MLflow."""

import csv
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from anemone.checkpoint.atomic import atomic_file, atomic_write, fsync
from anemone.errors import ConfigError

LoggerName = Literal["wandb", "mlflow"]

SPEED = "speed/"
"""Prefix of metrics that differ from one execution to the next; the table leaves them out."""


class MetricsTable(Logger):
    """A CSV file of a run: a row for each logged step, a column for each metric.

    It holds what is reproducible, so that an interrupted run ends with the same file as one that was not.

    Args:
        path: the file.
        step: of the checkpoint the run goes on from; rows of later steps come again, so they are dropped.
    """

    def __init__(self, path: Path, step: int) -> None:
        super().__init__()
        self.path = path
        self.rows = read_rows(path)
        self.rewind(step)

    @property
    def name(self) -> str:
        """Of the run."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """A run has one."""
        return ""

    def log_hyperparams(self, params: Any) -> None:
        """Does nothing: settings are in config.yaml."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a row, or more columns to the row of the same step."""
        cells = {name: repr(value) for name, value in metrics.items() if not name.startswith(SPEED)}
        if self.rows and int(self.rows[-1]["step"]) == step:
            self.rows[-1].update(cells)
            self._rewrite()
            return
        self.rows.append({"step": str(step), **cells})
        if set(cells) <= set(self.columns):
            with self.path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self.columns, lineterminator="\n").writerow(self.rows[-1])
        else:
            self._rewrite()

    def rewind(self, step: int) -> None:
        """Drops the rows of later steps."""
        self.rows = [row for row in self.rows if int(row["step"]) <= step]
        self._rewrite()

    def save(self) -> None:
        """Flushes the rows to disk."""
        fsync(self.path)

    def _rewrite(self) -> None:
        names = dict.fromkeys(name for row in self.rows for name in row)
        self.columns = ["step", *(name for name in names if name != "step")]
        with atomic_file(self.path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a table, without their empty cells; a last line that was cut off is left out."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    return [{name: value for name, value in row.items() if value} for row in csv.DictReader(lines)]


def build_loggers(folder: Path, names: Sequence[LoggerName], *, project: str, step: int) -> list[Logger]:
    """Returns the loggers of a run that goes on from ``step``.

    Raises:
        ConfigError: a logger's package is not installed.
    """
    run = folder.absolute().name
    made: list[Logger] = [MetricsTable(folder / "metrics.csv", step)]
    made.append(TensorBoardLogger(folder, name="tensorboard", version="", purge_step=step + 1, flush_secs=10))
    try:
        if "wandb" in names:
            place = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]  # folders may share a name
            made.append(_Wandb(name=run, save_dir=folder, project=project, id=f"{run}-{place}", resume="allow"))
        if "mlflow" in names:
            made.append(_mlflow(folder, project))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`run.loggers` needs a package: {error}. Install anemone[wandb] or anemone[mlflow].",
            path="run.loggers",
        ) from error
    return made


class _Wandb(WandbLogger):
    """Ends its run with ours, so that the next one of the same process is another."""

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(int(status != "success"))


def _mlflow(folder: Path, project: str) -> MLFlowLogger:
    """The logger of the run whose number an earlier sitting left in the folder, or of a new one."""
    note = folder / "mlflow_run"
    number = note.read_text("utf-8").strip() if note.exists() else None
    run, store = folder.absolute().name, str(folder / "mlflow")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # or MLflow 3 refuses a folder
    logger = MLFlowLogger(experiment_name=project, run_name=run, save_dir=store, run_id=number)
    if number is None:
        atomic_write(note, str(logger.run_id).encode())
    return logger
