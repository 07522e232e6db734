"""The loader: from an index to the micro-batches of each optimizer step, the same for any number of ranks and workers.

A position in the data is two numbers, (epoch, step). Whoever starts there gets what an uninterrupted run gets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from anemone.config import EMPTY, list_of_kind, must
from anemone.data.audio import Recordings
from anemone.data.augmentation import STEPS, Recipe, StepConfig
from anemone.data.batch import Batch, FeatureBatch
from anemone.data.epochs import Epochs, Key
from anemone.data.manifest import Index
from anemone.data.plan import PlanConfig
from anemone.data.problems import HOPELESS, SHOWN, Problem, log, none_usable, report, say_left_out
from anemone.data.reader import Loaded, Reader
from anemone.data.steps import Steps
from anemone.data.targets import Encode
from anemone.data.workers import Workers

if TYPE_CHECKING:
    from anemone.data.kaldi.loader import KaldiDataConfig

MAX_RATE = 384_000


def make_loader(
    self: "SpeechDataConfig | KaldiDataConfig",
    index: Index,
    encode: Encode,
    *,
    training: bool,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    batches_per_step: int | None = None,
    shared: Any = None,
) -> "Loader":
    """Makes the loader of one rank; see `Loader`."""
    return Loader(
        index,
        self,
        encode,
        training=training,
        seed=seed,
        rank=rank,
        world=world,
        batches_per_step=batches_per_step,
        shared=shared,
    )


@dataclass(frozen=True, kw_only=True)
class SpeechDataConfig:
    """Where recordings are and how they are read."""

    unit: ClassVar[str] = "audio_seconds"
    """What the speed of training is measured in."""

    train: tuple[str, ...] = ()
    """Manifests to train on; ``assets/...`` lies inside the package."""

    valid: tuple[str, ...] = ()
    """Manifests to validate on."""

    test: tuple[str, ...] = ()
    """Manifests for the last evaluation."""

    plan: PlanConfig = PlanConfig()
    """How utterances become micro-batches in training."""

    augment: tuple[StepConfig, ...] = list_of_kind(STEPS)
    """What happens to recordings in training: the steps of a recipe, in their order."""

    rate: int = 16_000
    """Samples per second; recordings of another rate are resampled."""

    channel: int | None = None
    """Which channel to take, from 0; the mean of all if null."""

    num_workers: int = 0
    """Processes that read ahead; 0 reads in the training process itself."""

    cache_mb: int = 512
    """MiB of decoded recordings to keep in memory, all sets and workers of a process together."""

    eval_batch_size: int = 32
    """Utterances in a batch of an evaluation."""

    skip_bad: bool = True
    """Whether utterances that cannot be used are reported and left out, or end the run."""

    def __post_init__(self) -> None:
        sets, weights = len(self.train), self.plan.weights
        alike = not weights or len(weights) == sets or not sets
        must(alike, "plan.weights", f"one for each of `data.train` ({sets})", value=list(weights))
        must(1 <= self.rate <= MAX_RATE, "rate", f"in 1..{MAX_RATE}", value=self.rate)
        must(self.channel is None or self.channel >= 0, "channel", "0 or more", value=self.channel)
        must(self.num_workers >= 0, "num_workers", "0 or more", value=self.num_workers)
        must(self.cache_mb >= 0, "cache_mb", "0 or more", value=self.cache_mb)
        must(self.eval_batch_size >= 1, "eval_batch_size", "1 or more", value=self.eval_batch_size)

    def read(self, paths: Sequence[str | Path], task: Any, files: Mapping[str, bytes] = EMPTY) -> Index:
        """Reads manifests; of the task's config it asks the column to learn from, ``target``.

        Raises:
            DataError: a manifest does not exist, or they hold nothing to use.
        """
        return Index.read(paths, target=task.target, skip_bad=self.skip_bad)

    def reader(
        self, index: Index, encode: Encode, *, training: bool, seed: int, shared: Recordings | None = None
    ) -> Reader:
        """Makes what reads the utterances of a micro-batch; arguments are those of `loader`."""
        recipe = Recipe(self.augment if training else ())
        return Reader(index, shared or self.shared(), encode, recipe=recipe, seed=seed)

    def shared(self, loaders: int = 1) -> Recordings:
        """What reads recordings for so many loaders of a process: one cache, or one for each worker of each of them."""
        share = self.cache_mb / (self.num_workers * loaders) if self.num_workers else self.cache_mb
        return Recordings(self.rate, channel=self.channel, cache_mb=share)

    loader = make_loader


class Loader(Steps):
    """The micro-batches of this rank, step by step, in plan order; see `Steps`.

    Args:
        index: the utterances.
        config: how they are read.
        encode: target text -> tokens or class number; raises DataError for one it does not know.
        training: shuffled and augmented steps, or every utterance once, one micro-batch at a time.
        seed: of the run.
        rank: of this process.
        world: number of processes.
        batches_per_step: micro-batches of an optimizer step over all ranks; a multiple of ``world``.
        shared: what several loaders of a process read through; its own by default.
    """

    shaped_by: ClassVar[str] = "`data.plan`"

    def __init__(
        self,
        index: Index,
        config: "SpeechDataConfig | KaldiDataConfig",
        encode: Encode,
        *,
        training: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        batches_per_step: int | None = None,
        shared: Any = None,
    ) -> None:
        super().__init__(training=training, rank=rank, world=world, batches_per_step=batches_per_step)
        evaluation = PlanConfig(batch_size=config.eval_batch_size, num_buckets=100, shuffle=False)
        self.index, self.config = index, config
        self._plan_said = rank > 0
        self._plans = Epochs(index, config.plan if training else evaluation, seed=seed)
        self._reader = config.reader(index, encode, training=training, seed=seed, shared=shared)
        self._workers: Workers | None = None

    def num_batches(self, epoch: int) -> int:
        """Micro-batches of an epoch; with a budget in seconds they vary from epoch to epoch."""
        return len(self._plans[epoch])

    def total_steps(self, epochs: int) -> int:
        """Steps of so many epochs.

        Raises:
            ConfigError: the plan leaves nothing of the data.
        """
        return self._plans.total_steps(epochs, self.batches_per_step)

    def __iter__(self) -> Iterator[list[Batch | FeatureBatch]]:
        """Yields the steps from the position to the end of its epoch, each a list of this rank's micro-batches.

        Raises:
            DataError: an utterance cannot be used and `skip_bad` is false; or none can, where there is one rank: one of
                several does not know what the others have, so whoever joins them decides, by `bad` and `used`.
        """
        if not self._plan_said:
            self._say_plan()
        epoch, left = self._left()
        shares, before = list(left), len(self.problems)
        loaded = self._load(self._plans.keys(epoch, [i for _, share in shares for i in share]))
        for step, share in shares:
            batches_of_step = [batch for _ in share if (batch := self._accept(*next(loaded))) is not None]
            self._taken(epoch, step)
            if batches_of_step or self.training:
                yield batches_of_step
        self._end_of_epoch(before)

    def _say_plan(self) -> None:
        """Says how many utterances the plan leaves out, and in training what it makes of the others."""
        self._plan_said = True
        if out := self._plans.left_out:
            log.warning("left out %d of %d utterances: %s", out, len(self.index), self._plans.limits)
        for line in self._plans.describe() if self.training else ():
            log.info("%s", line)

    def _load(self, keys: list[Key]) -> Iterator[Loaded]:
        """Reads micro-batches in order, here or in workers that live as long as the loader."""
        if not self.config.num_workers:
            return map(self._reader.__getitem__, keys)
        if self._workers is None:
            self._workers = Workers(self._reader, self.config.num_workers)
        return self._workers.load(keys, self.index.name)

    def _accept(
        self, batch: Batch | FeatureBatch | None, failures: list[tuple[int, str]]
    ) -> Batch | FeatureBatch | None:
        """Books what was loaded and reports what could not be, once."""
        for number, cause in failures:
            if number not in self.bad:
                self.bad.add(number)
                row = self.index.row(number)
                self.problems.append(Problem(row.source, row.line, cause))
                if not self.config.skip_bad:
                    report(self.problems, len(self.index), skip_bad=False)
                if len(self.problems) <= SHOWN:
                    log.warning("%s", self.problems[-1])
        self.used += 0 if batch is None else len(batch.rows)
        if self.world == 1 and not self.used and len(self.bad) >= HOPELESS:
            raise none_usable(len(self.bad), self.problems)
        return batch

    def _end_of_epoch(self, before: int) -> None:
        if self.world > 1:
            return
        if self.bad and not self.used:
            raise none_usable(len(self.bad), self.problems)
        if len(self.problems) > before:
            say_left_out(len(self.problems), len(self.index))
