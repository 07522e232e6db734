"""Progress: a bar in a terminal, a line now and then elsewhere; what is said goes above the bar and into log.txt."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from anemone.training import ranks
from anemone.training.callbacks import EachStep
from anemone.training.module import TrainingModule

ProgressKind = Literal["auto", "bar", "lines", "none"]

LIGHTNING = ("lightning.pytorch", "lightning.fabric")
"""Loggers that speak of hardware and settings."""

WIDE = 100
"""Columns from which on there is room for a bar beside the numbers."""

LINE_SECONDS = 10.0
"""Between two lines where there is no terminal."""


class PipeConsole(Console):
    """A console that lets the command line know when nobody reads any more, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Prints nothing from now on, and says so once."""
        self.quiet = True
        raise BrokenPipeError


class ProgressBar(EachStep):
    """Shows step, epoch, loss, learning rate, share of the time spent waiting for data, and how much data a second.

    Args:
        kind: a bar, lines, nothing; or a bar in a terminal and lines elsewhere.
        console: where it goes.
    """

    def __init__(self, kind: ProgressKind, console: Console) -> None:
        self.kind = ("bar" if console.is_terminal else "lines") if kind == "auto" else kind
        self.console = console
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.shown = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the bar."""
        module = cast(TrainingModule, pl_module)
        self.shown = time.monotonic()
        if self.kind == "bar":
            bar = [BarColumn(None)] if self.console.width >= WIDE else []
            columns = (TextColumn("{task.description}", markup=False), *bar, TimeRemainingColumn(compact=True))
            self.bar = Progress(*columns, console=self.console, refresh_per_second=4, expand=True)
            self.task = self.bar.add_task("training", total=module.total_steps, completed=module.engine.steps)
            self.bar.start()

    def after_step(self, trainer: Trainer, module: TrainingModule) -> None:
        """Moves the bar, at most four times a second, or says a line."""
        last, now = bool(module.stop), time.monotonic()
        if self.bar and (now - self.shown > 0.25 or last):
            self.shown = now
            self.bar.update(self.task, completed=module.engine.steps, description=status(module))
        elif self.kind == "lines" and (now - self.shown > LINE_SECONDS or last):
            self.shown = now
            said(self.console, "step " + status(module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the bar as it is."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the bar as it is."""
        self._close()

    def _close(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None


def status(module: TrainingModule) -> str:
    """The line that a bar or a log shows."""
    meter, rate = module.meter, module.engine.optimizer.param_groups[0]["lr"]
    return (
        f"{module.engine.steps}/{module.total_steps}  epoch {module.ledger.epoch}  loss {meter.loss:.4f}  "
        f"lr {rate:.1e}  data {meter.data_share:.0%}  {meter.rate:.0f} {module.config.data.unit.replace('_', ' ')}/s"
    )


@contextmanager
def narration(folder: Path, console: Console) -> Iterator[None]:
    """What anemone logs goes to the console and into log.txt, on the first rank; others only complain of errors.

    Lightning's own remarks about hardware and settings are kept out.
    """
    ours = logging.getLogger("anemone")
    levels = {logger: logger.level for logger in (ours, *map(logging.getLogger, LIGHTNING))}
    handlers = [_ConsoleHandler(console), _file_handler(folder / "log.txt")] if ranks.is_first() else []
    for logger in levels:
        logger.setLevel(logging.ERROR)
    if ranks.is_first():
        ours.setLevel(logging.INFO)
    for handler in handlers:
        ours.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            ours.removeHandler(handler)
            handler.close()
        for logger, level in levels.items():
            logger.setLevel(level)


def _file_handler(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


class _ConsoleHandler(logging.Handler):
    """Prints above the bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        said(self.console, record.getMessage(), style)


def said(console: Console, text: str, style: str | None = None) -> None:
    """Prints a text as it is: paths may hold what rich takes for markup, and ``file.jsonl:100:`` is no emoji."""
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)
