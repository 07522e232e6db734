"""The one LightningModule: Lightning brings steps, the engine takes them."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningModule
from torch.optim import Optimizer

from anemone.config import Tree
from anemone.data import Examples, MicroBatch, StepLoader
from anemone.data.problems import HOPELESS, none_usable, say_left_out
from anemone.tasks.task import Task
from anemone.training import ranks
from anemone.training.engine import Engine, StepResult
from anemone.training.evaluation import evaluation_loader, measure
from anemone.training.layout import lay_out
from anemone.training.loggers import MetricsTable
from anemone.training.optim import check_rates
from anemone.training.precision import precision
from anemone.training.resume import Saved, Saver, checkpoints, newest_checkpoint, random_states, set_random_states
from anemone.training.strategy import Joined

if TYPE_CHECKING:
    from anemone.parallel.apply import Parallel
    from anemone.training.experiment import ExperimentConfig


log = logging.getLogger("anemone.training")


class Step:
    """What the data gives for one optimizer step."""

    def __init__(self, epoch: int, number: int, micro_batches: list[MicroBatch], waited: float) -> None:
        self.epoch, self.number = epoch, number
        self.micro_batches = micro_batches
        self.waited = waited
        """Seconds that training waited for the data."""
        self.size = sum(batch.size for batch in micro_batches)
        """How much data that is on this rank, in the unit of its kind."""


class Feed:
    """The steps of a loader, each with its place in the data; a pass is what is left of an epoch.

    A pass starts where the ledger says that training stands, however far the data were read ahead.
    """

    def __init__(self, loader: StepLoader, ledger: "Ledger") -> None:
        self.loader, self.ledger = loader, ledger

    def __iter__(self) -> Iterator[Step]:
        """Yields the steps from where training stands to the end of that epoch."""
        self.loader.set_position(self.ledger.epoch, self.ledger.number)
        place = self.loader.state_dict()
        before = time.perf_counter()
        for number, micro_batches in enumerate(self.loader, start=place["step"]):
            yield Step(place["epoch"], number, micro_batches, time.perf_counter() - before)
            before = time.perf_counter()


class Meter:
    """Speeds of the last steps, about 50 of them; evaluations and saves are not counted."""

    def __init__(self, data_world: int = 1) -> None:
        self.data_world = data_world
        """Ranks that read as much data as this one."""
        self.loss = 0.0
        """Smoothed."""
        self._wall = self._waited = self._size = self._steps = 0.0
        self._last = time.perf_counter()

    def add(self, step: Step, loss: float) -> None:
        """Counts a step that ends now."""
        now = time.perf_counter()
        values = (now - self._last, step.waited, step.size * self.data_world, 1.0)
        sums = (self._wall, self._waited, self._size, self._steps)
        self._wall, self._waited, self._size, self._steps = (
            0.98 * total + value for total, value in zip(sums, values, strict=True)
        )
        self._last = now
        if math.isfinite(loss):
            self.loss += (loss - self.loss) / self._steps

    def pause(self) -> None:
        """Leaves out the time since the last step."""
        self._last = time.perf_counter()

    @property
    def data_share(self) -> float:
        """Share of the time that training waits for data."""
        return self._waited / max(self._wall, 1e-9)

    @property
    def rate(self) -> float:
        """How much data a second, of all ranks: seconds of audio, tokens."""
        return self._size / max(self._wall, 1e-9)

    @property
    def step_rate(self) -> float:
        """Steps a second."""
        return self._steps / max(self._wall, 1e-9)


@dataclass
class Ledger:
    """What a run remembers beside the engine's state; plain numbers, saved in each checkpoint."""

    epoch: int = 0
    """Of the next step."""

    number: int = 0
    """Of the next step in its epoch."""

    total: float = 0.0
    """Sum of losses since the last logged row."""

    count: float = 0.0
    """What it was summed over."""

    skipped: int = 0
    """Steps skipped so far."""

    empty: int = 0
    """Of these, the ones that had no utterance to learn from."""

    minutes: float = 0.0
    """Of training, all sittings together."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation."""

    best: dict[str, float] = field(default_factory=dict)
    """Of the best evaluation, with its ``step``."""


class TrainingModule(LightningModule):
    """Training as Lightning sees it: manual optimization, one engine step a training step.

    Args:
        task: what is trained.
        config: of the run.
        sets: the data by name; "train" is the one to train on.
        total_steps: of the run.
    """

    engine: Engine
    result: StepResult

    def __init__(
        self,
        task: Task,
        config: "ExperimentConfig",
        sets: Mapping[str, Examples],
        *,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.task, self.config, self.index = task, config, sets["train"]
        self.shared = config.data.shared(loaders=len(sets))
        """What all sets are read through; they may be pieces of the same files."""
        self.loaders: dict[str, StepLoader] = {}
        """Of the sets that were read."""
        self.left_out = 0
        """Utterances of the training data, over all ranks, that were said to be left out."""
        self.total_steps = total_steps
        self.num_parameters = sum(p.numel() for p in task.parameters())
        """Of the whole network, before it is laid out."""
        self.saver = Saver(Path(config.run.folder) / "checkpoints")
        self.ledger, self.meter = Ledger(), Meter()
        self.parallel: Parallel | None = None
        """The network as it is laid out over the mesh of the run, if it has one."""
        self.stop = ""
        """Why training ends after this step: "finished", "asked"; or ""."""

    def configure_model(self) -> None:
        """Puts the task on its device, and its network over the mesh; lazy weights come to be here."""
        strategy = self.trainer.strategy
        self.parallel = lay_out(
            self.task,
            strategy.mesh if isinstance(strategy, Joined) else None,
            precision=precision(self.config.precision, strategy.root_device),
            seed=self.config.run.seed,
            init=self.config.run.init,
            only=self.config.run.init_only,
            but=self.config.run.init_except,
            device=strategy.root_device,
        )

    def configure_optimizers(self) -> Optimizer:
        """Builds the optimizer once the task is on its device."""
        check_rates(self.config.optim, self.task)
        optimizer: Optimizer = self.config.optim.build(self.task)
        return optimizer

    def on_fit_start(self) -> None:
        """Builds the engine and goes on from the newest checkpoint that is whole."""
        c = self.config
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        self.engine = Engine(
            self.task,
            optimizer,
            c.schedule.build(self.total_steps),
            parallel=self.parallel,
            precision=c.precision,
            clip_norm=c.trainer.clip_norm,
            ema_decay=c.trainer.ema_decay,
            seed=c.run.seed,
            max_nonfinite=c.trainer.max_nonfinite,
            name_row=self.name_row,
            take=self.take,
        )
        self.meter = Meter(self.engine.data_world)
        self.saver = Saver(self.saver.folder, ranks.own_group(), asynchronous=c.checkpoint.asynchronous)
        if saved := newest_checkpoint(self.saver.folder, self.saver.group):
            self._go_on(saved)

    def _go_on(self, saved: Saved) -> None:
        """Goes on from a checkpoint; of a table of metrics, what came after it is dropped."""
        state = self.load(saved)
        self.ledger = Ledger(**state["ledger"])
        set_random_states(state["random"])
        self._set_counters()
        if saved.step < max(checkpoints(self.saver.folder), default=0):
            log.info("The run goes on from step %d.", saved.step)
            for logger in self.trainer.loggers:
                if isinstance(logger, MetricsTable):
                    logger.rewind(saved.step)

    def take(self) -> None:
        """Steps the optimizer and counts it, as Lightning's own wrapper does in ten times the time."""
        counter = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        counter.increment_ready()
        self.engine.optimizer.step()
        counter.increment_completed()

    def _set_counters(self) -> None:
        """Tells Lightning how many epochs and optimizer steps are done."""
        loops = self.trainer.fit_loop
        state, taken = loops.state_dict(), self.engine.steps - self.ledger.skipped
        for name, done in (
            ("epoch_progress", self.ledger.epoch),
            ("epoch_loop.manual_optimization.optim_step_progress", taken),
        ):
            state[name] = {kind: dict.fromkeys(counts, done) for kind, counts in state[name].items()}
        loops.load_state_dict(state)
        loops.restarting = False

    def train_dataloader(self) -> Feed:
        """The steps of this rank."""
        rank, world = self.place
        self.loaders["train"] = loader = self.config.data.loader(
            self.index,
            self.task.encode,
            training=True,
            seed=self.config.run.seed,
            rank=rank,
            world=world,
            batches_per_step=self.config.trainer.batches_per_step,
            shared=self.shared,
        )
        return Feed(loader, self.ledger)

    def transfer_batch_to_device(self, batch: Step, device: torch.device, dataloader_idx: int) -> Step:
        """Leaves moving to the engine, micro-batch by micro-batch."""
        return batch

    def training_step(self, batch: Step, batch_idx: int) -> None:
        """Takes one optimizer step."""
        self.result = self.engine.step(batch.micro_batches)
        self.meter.add(batch, self.result.loss)
        ledger = self.ledger
        last = self.trainer.is_last_batch
        ledger.epoch, ledger.number = (batch.epoch + 1, 0) if last else (batch.epoch, batch.number + 1)
        ledger.skipped += bool(self.result.skipped)
        ledger.empty += self.result.skipped == "empty"
        if not self.result.skipped:
            ledger.total += self.result.total
            ledger.count += self.result.count
        if ranks.world() > 1 and (last or ledger.empty == self.engine.steps):
            self._judge_data(last)

    def _judge_data(self, last: bool) -> None:
        """Decides over all ranks what a loader of one rank decides alone: whether any utterance can be used.

        Args:
            last: whether the epoch is over; before its end, many bad utterances and no other are enough.
        """
        loader, device = self.loaders["train"], self.engine.device
        bad = len(set(ranks.gather_numbers(sorted(loader.bad), device)))
        (used,) = ranks.any_rank([loader.used > 0], device)
        if bad and not used and (last or bad >= HOPELESS):
            raise none_usable(bad, loader.problems, noun=self.index.noun)
        if last and bad > self.left_out:
            self.left_out = bad
            say_left_out(bad, len(self.index), noun=self.index.noun)

    def evaluate(self, sets: Mapping[str, Examples]) -> dict[str, float]:
        """Metrics of some sets, as "set/metric"; all ranks must call it."""
        metrics: dict[str, float] = {}
        for name, index in sets.items():
            if name not in self.loaders:
                place = self.place
                self.loaders[name] = evaluation_loader(self.task, index, self.config.data, self.shared, place=place)
            with self.engine.evaluation():
                measured = measure(self.task, self.loaders[name], self.engine.device, self.engine.share)
            metrics |= {f"{name}/{metric}": value for metric, value in measured.items()}
        return metrics

    @property
    def place(self) -> tuple[int, int]:
        """Number of this rank among those that read different data, and how many do."""
        return ranks.place(self.parallel.mesh if self.parallel else None)

    def name_row(self, number: int) -> str:
        """Where a row of the training data comes from."""
        return self.index.name(number)

    def state(self) -> Tree:
        """All that a run goes on from: numbers, and the tensors that this rank holds."""
        return {
            "optim": type(self.config.optim).__name__,
            "model": self.task.state_dict(),
            "engine": self.engine.state_dict(),
            "ledger": asdict(self.ledger),
            "random": random_states() if ranks.rank() == 0 else {},
        }

    def save(self, then: Callable[[], object]) -> None:
        """Writes a training checkpoint, then calls a function on rank 0; all ranks must call it."""
        self.saver.save(self.engine.steps, self.state(), then)

    def load(self, saved: Saved) -> Tree:
        """Takes weights and the engine's state from a checkpoint; returns all of it. All ranks must call it."""
        self.engine.allocate()
        into = self.state() | {"random": random_states()}
        if saved.numbers["optim"] != into["optim"]:
            log.warning("`optim` is of another kind than before: it starts without a memory.")
            into["engine"]["optimizer"] = {}
        state = saved.load(into, self.saver.group, exact=("model",), optional=("engine", "random"))
        fresh = into["engine"]["optimizer"].keys() - state["engine"].get("optimizer", {}).keys()
        if fresh and state["engine"].get("optimizer"):
            log.warning("The optimizer starts without a memory of `%s` and %d more.", min(fresh), len(fresh) - 1)
        self.engine.load_state_dict({"optimizer": {}, **state["engine"]})
        return state
