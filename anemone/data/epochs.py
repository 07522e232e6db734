"""The plans of a set of utterances, epoch by epoch."""

from collections.abc import Iterable
from functools import cached_property

import pyarrow.compute as pc

from anemone.config import must
from anemone.data.buckets import Numbers, Rows
from anemone.data.manifest import Index
from anemone.data.padding import statistics
from anemone.data.plan import Plan, PlanConfig, plan, set_draws, within

Key = tuple[Rows, Rows]  # copies and rows of one micro-batch


class Epochs:
    """The plans of an index; the one that was asked for last is kept, and nothing else.

    Args:
        index: the utterances.
        config: of the plan.
        seed: of the run.
    """

    def __init__(self, index: Index, config: PlanConfig, *, seed: int) -> None:
        self.index, self.config, self.seed = index, config, seed
        self._last: tuple[int, Plan] | None = None

    def __getitem__(self, epoch: int) -> Plan:
        """The plan of an epoch."""
        if self._last is None or self._last[0] != epoch:
            self._last = None  # two need not be there at a time
            lens, sets = self.text_lens, self.sets
            made = plan(self.index.durations, self.config, seed=self.seed, epoch=epoch, text_lens=lens, sets=sets)
            self._last = epoch, made
        return self._last[1]

    def keys(self, epoch: int, numbers: Iterable[int]) -> list[Key]:
        """Copies and rows of some micro-batches of an epoch."""
        chosen = self[epoch]
        return [(chosen.copies(number), chosen[number]) for number in numbers]

    @cached_property
    def text_lens(self) -> Numbers | None:
        """Characters of each target (N,), where the plan asks for them."""
        if not self.config.reads_text:
            return None
        lens: Numbers = pc.fill_null(pc.utf8_length(self.index.table["@target"]), 0).to_numpy()
        return lens

    @cached_property
    def sets(self) -> Numbers | None:
        """Number of each utterance's set (N,), where sets are mixed."""
        return self.index.sets if self.config.mixes else None

    def total_steps(self, epochs: int, batches_per_step: int) -> int:
        """Steps of so many epochs.

        Raises:
            ConfigError: the plan leaves nothing of the data.
        """
        must(len(self[0]) > 0, "data.plan", "such that it leaves some of the training data", value=self.config)
        counts = (len(self[epoch]) for epoch in range(epochs if self.config.budgeted else 1))
        steps = sum(-(-count // batches_per_step) for count in counts)
        return steps if self.config.budgeted else steps * epochs

    def describe(self) -> list[str]:
        """What an epoch is, in lines for people: its micro-batches and padding, and what is drawn of each set."""
        lines = [f"an epoch has {statistics(self[0] if self._last is None else self._last[1], self.index.durations)}"]
        if self.sets is not None:
            draws = set_draws(self.index.durations, self.config, self.sets)
            lines.append(f"an epoch draws {', '.join(f'{number:,}' for number in draws)} utterances of the sets")
        return lines

    @property
    def left_out(self) -> int:
        """How many utterances are too short or too long for the plan."""
        return len(self.index) - int(within(self.index.durations, self.config).sum())

    @property
    def limits(self) -> str:
        """The settings that leave utterances out."""
        least, most = self.config.min_seconds, self.config.max_seconds
        return f"data.plan.min_seconds is {least:g}" + ("" if most is None else f", max_seconds {most:g}")
