"""What happens around steps: when to stop, what to log, when to evaluate and save, and what a finished run leaves.

The order matters: a step is logged, then evaluated, then saved, so that a checkpoint always comes after the rows of its
step, and a run that is killed between two of them says each row once.
"""

import logging
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from anemone import tasks
from anemone.checkpoint.atomic import standing
from anemone.checkpoint.shards import Shards
from anemone.data import Examples
from anemone.errors import TrainingError
from anemone.training import ranks
from anemone.training.evaluation import COUNTS, told
from anemone.training.loggers import SPEED, MetricsTable
from anemone.training.module import TrainingModule
from anemone.training.resume import checkpoints, network, prune, read_checkpoint
from anemone.training.run import counted, write_json

log = logging.getLogger("anemone.training")

WARNINGS = {"SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"}
"""Signals that ask training to end; not every system has all of them."""


class EachStep(Callback):
    """A callback that acts after each step, by its method `after_step`."""

    def after_step(self, trainer: Trainer, module: TrainingModule) -> None:
        """Acts."""
        raise NotImplementedError

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object = None,
        batch: object = None,
        batch_idx: int = 0,
    ) -> None:
        """Calls `after_step`."""
        self.after_step(trainer, cast(TrainingModule, pl_module))


class Stopping(EachStep):
    """Ends training after the last step, after so many minutes, or when the process is asked to end.

    SIGTERM, the user signals by which schedulers warn of a limit, and Ctrl-C let the step end, save, and leave; a
    second Ctrl-C leaves at once.
    """

    def __init__(self, max_minutes: float | None) -> None:
        self.max_minutes = max_minutes
        self.asked = False
        self.began = self.before = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the signals over from Lightning, which gives them back when it ends; leaves at once if all is done."""
        module = cast(TrainingModule, pl_module)
        self.began, self.before = time.monotonic(), module.ledger.minutes
        if threading.current_thread() is threading.main_thread():
            for name in WARNINGS & signal.Signals.__members__.keys():
                signal.signal(signal.Signals[name], self._ask)
        if module.engine.steps >= module.total_steps or self._late(module):
            module.stop, trainer.should_stop = "finished", True

    def after_step(self, trainer: Trainer, module: TrainingModule) -> None:
        """Decides, alike on all ranks, whether this step is the last."""
        module.ledger.minutes = self.before + (time.monotonic() - self.began) / 60
        late, asked = ranks.any_rank([self._late(module), self.asked], module.device)
        if module.engine.steps >= module.total_steps or late:
            module.stop = "finished"
        elif asked:
            module.stop = "asked"
        if module.stop:
            trainer.should_stop = True

    def _late(self, module: TrainingModule) -> bool:
        return self.max_minutes is not None and module.ledger.minutes >= self.max_minutes

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


class Metrics(EachStep):
    """Logs loss, rate and gradient norm, and speeds.

    Args:
        every: steps between two rows.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def after_step(self, trainer: Trainer, module: TrainingModule) -> None:
        """Logs the mean loss of the steps since the last row."""
        if module.engine.steps % self.every and module.stop != "finished":
            return
        ledger, meter = module.ledger, module.meter
        row = {
            "train/loss": ledger.total / max(ledger.count, 1.0),
            "train/lr": module.engine.optimizer.param_groups[0]["lr"],
            "train/grad_norm": module.result.grad_norm,
            "train/epochs": float(ledger.epoch),
            "train/skipped": float(ledger.skipped),
            f"{SPEED}data_share": meter.data_share,
            f"{SPEED}{module.config.data.unit}_per_second": meter.rate,
            f"{SPEED}steps_per_second": meter.step_rate,
        }
        ledger.total = ledger.count = 0.0
        log_row(trainer, row, module.engine.steps)


class Evaluations(EachStep):
    """Measures the task on the validation sets, with averaged weights where there are some.

    Args:
        sets: by name of the set.
        every: steps between two evaluations; None for after each epoch.
        monitor: the metric that says what is best, and "max" or "min".
    """

    def __init__(self, sets: Mapping[str, Examples], *, every: int | None, monitor: tuple[str, str]) -> None:
        self.sets, self.every, self.monitor = sets, every, monitor

    def after_step(self, trainer: Trainer, module: TrainingModule) -> None:
        """Evaluates if it is time, and after the last step."""
        due = trainer.is_last_batch if self.every is None else module.engine.steps % self.every == 0
        if not self.sets or not (due or module.stop == "finished"):
            return
        metrics = module.evaluate(self.sets)
        module.ledger.metrics = metrics
        log_row(trainer, metrics, module.engine.steps)
        shown = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in told(metrics).items()}
        log.info("step %d  %s", module.engine.steps, "  ".join(f"{name} {value}" for name, value in shown.items()))
        name, way = f"{next(iter(self.sets))}/{self.monitor[0]}", self.monitor[1]
        best, sign = module.ledger.best, 1 if way == "max" else -1
        if not best or sign * metrics[name] > sign * best[name]:
            module.ledger.best = {"step": module.engine.steps, **metrics}
        module.meter.pause()


class Checkpoints(EachStep):
    """Saves all that a run goes on from.

    Args:
        folder: of the checkpoints.
        every: steps between two saves.
        keep: how many stay.
        keep_best: whether that of the best evaluation stays, too.
    """

    def __init__(self, folder: Path, *, every: int, keep: int, keep_best: bool) -> None:
        self.folder, self.every, self.keep, self.keep_best = folder, every, keep, keep_best

    def after_step(self, trainer: Trainer, module: TrainingModule) -> None:
        """Saves if it is time, after a best evaluation, and when training ends."""
        step = module.engine.steps
        best = {int(module.ledger.best["step"])} if self.keep_best and module.ledger.best else set()
        if step % self.every and not module.stop and step not in best:
            return
        for logger in trainer.loggers:
            if isinstance(logger, MetricsTable):
                logger.save()
        module.save(lambda: prune(self.folder, set(sorted(checkpoints(self.folder))[-self.keep :]) | best))
        if module.stop:
            module.saver.wait()
        module.meter.pause()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets a save that is under way end, though training has failed."""
        try:
            cast(TrainingModule, pl_module).saver.wait()
        except Exception as error:
            log.warning("The checkpoint that was being written is not complete: %s", error)


class Finish(Callback):
    """Leaves the finished model: chosen weights, metrics of all sets, archive.

    Args:
        folder: of the run.
        sets: by name of the set: what is measured at the end.
        best: whether the weights of the best evaluation are chosen, or the last.
    """

    def __init__(self, folder: Path, sets: Mapping[str, Examples], *, best: bool) -> None:
        self.folder, self.sets, self.best = folder, sets, best

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the model and writes it with its scores, if training is done and not only interrupted.

        Raises:
            TrainingError: no step moved the weights: nothing was learnt.
            DataError: a set cannot be measured; the model is written without scores of it.
        """
        module = cast(TrainingModule, pl_module)
        if module.stop != "finished":
            log.info("Stopped at step %d of %d; the same command goes on.", module.engine.steps, module.total_steps)
            return
        self._count(module)
        steps, metrics = module.engine.steps, dict(module.ledger.metrics)
        if self.best and module.ledger.best:
            metrics = self._choose_best(module)
        module.engine.settle()
        try:
            metrics |= module.evaluate(self.sets)
        except Exception:
            self._write(module, steps, metrics)
            log.error("The finished model is `%s`, but could not be measured.", self.folder / "model.anemone")
            raise
        self._write(module, steps, metrics)
        module.ledger.metrics = metrics
        log.info("Finished after %s: `%s`.", counted(steps, "step"), self.folder / "model.anemone")

    def _write(self, module: TrainingModule, steps: int, metrics: Mapping[str, float]) -> None:
        """Writes the results and the archive, on rank 0."""
        if ranks.rank() == 0:
            results = {"steps": steps, "of_step": module.engine.steps, "metrics": metrics}
            stored = None
            if module.engine.parallel:
                path = self.folder / "checkpoints" / f"step_{module.engine.steps}"
                stored = network(Shards(standing(path)))
            notes = card_notes(module, metrics)
            tasks.save(module.task, self.folder / "model.anemone", notes=notes, stored=stored)
            write_json(self.folder / "results.json", results)

    def _count(self, module: TrainingModule) -> None:
        """Says how many steps did not move the weights."""
        steps, skipped, empty = module.engine.steps, module.ledger.skipped, module.ledger.empty
        if not skipped:
            return
        what = f"{skipped} of {counted(steps, 'step')} did not move the weights" + (
            f", {empty} of them because no {module.index.noun} could be used" if empty else ""
        )
        if skipped == steps:
            raise TrainingError(
                f"Nothing was learnt: {what}. `{self.folder / 'log.txt'}` says why; once it is mended, remove "
                f"`{self.folder}` or choose another `run.folder`."
            )
        log.warning("%s.", what)

    def _choose_best(self, module: TrainingModule) -> dict[str, float]:
        """Puts in the weights of the best evaluation."""
        best = dict(module.ledger.best)
        step = int(best.pop("step"))
        if step != module.engine.steps:
            module.load(read_checkpoint(standing(self.folder / "checkpoints" / f"step_{step}"), module.saver.group))
        return best


def card_notes(module: TrainingModule, metrics: Mapping[str, float]) -> dict[str, Any]:
    """What the model card says of the run; scores are those of the test set, or else of the validation set."""
    config, index = module.config, module.index
    names = [name.partition("/")[0] for name in metrics]
    held_out = next((name for name in names if name.startswith("test")), names[0] if names else "")
    scores = {name.partition("/")[2]: value for name, value in metrics.items() if name.partition("/")[0] == held_out}
    return {
        "name": Path(config.run.folder).name,
        "parameters": f"{module.num_parameters:,}",
        "datasets": sorted({Path(manifest).absolute().parent.name for manifest in config.data.train}),
        "scores": {name: value for name, value in scores.items() if name not in COUNTS},
        "measured_on": {"set": held_out, **{name: int(scores[name]) for name in COUNTS if name in scores}}
        if scores
        else "",
        "trained_on": f"{counted(len(index), index.noun)} {index.extent} (fingerprint {index.fingerprint})",
        "trained_for": counted(module.engine.steps, "step"),
    }


def log_row(trainer: Trainer, row: Mapping[str, float], step: int) -> None:
    """Gives a row to all loggers."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(row), step)
