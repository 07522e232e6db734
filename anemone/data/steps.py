"""Steps of an epoch, the share of each rank in them, and the position of the next one."""

from collections.abc import Iterator
from typing import ClassVar

from anemone.config import must
from anemone.data.problems import Problem
from anemone.errors import DataError


class Steps:
    """What loaders of every kind of data share: who takes which micro-batch when.

    A step takes ``batches_per_step`` micro-batches over all ranks; rank r of n gets those numbered r, r + n, ..., so
    ranks share the same global steps. The last step of an epoch may have fewer, down to none on a rank. In an
    evaluation each rank takes one a step, always from the beginning. A subclass says how many micro-batches an epoch
    has, and makes them.

    Args:
        training: steps of an optimizer, or every row once, a micro-batch a step.
        rank: of this process, among those that read different data.
        world: number of them.
        batches_per_step: micro-batches of an optimizer step over all ranks; a multiple of ``world``, which it is by
            default.

    Attributes:
        problems: rows that could not be used so far, each once.
        bad: their numbers.
        used: rows given so far.
    """

    shaped_by: ClassVar[str]
    """The settings that the steps depend on."""

    def __init__(self, *, training: bool, rank: int = 0, world: int = 1, batches_per_step: int | None = None) -> None:
        per_step = world if batches_per_step is None or not training else batches_per_step
        rule = f"a multiple of the number of processes ({world})"
        must(per_step >= 1 and per_step % world == 0, "batches_per_step", rule, value=per_step)
        self.training, self.rank, self.world, self.batches_per_step = training, rank, world, per_step
        self.problems: list[Problem] = []
        self.bad: set[int] = set()
        self.used = 0
        self._position = (0, 0)

    def num_batches(self, epoch: int) -> int:
        """Micro-batches of an epoch, over all ranks."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Steps of the epoch that the position is in."""
        return self.steps(self._position[0])

    def steps(self, epoch: int) -> int:
        """Steps of an epoch."""
        batches = self.num_batches(epoch)
        return -(-batches // self.batches_per_step) if self.training else len(range(self.rank, batches, self.world))

    def state_dict(self) -> dict[str, int]:
        """Returns the position of the next step."""
        return {"epoch": self._position[0], "step": self._position[1]}

    def set_position(self, epoch: int, step: int) -> None:
        """Makes ``step`` of ``epoch`` the next one; the step after the last is the first of the next epoch.

        Raises:
            DataError: the epoch has fewer steps.
        """
        steps = self.steps(epoch)
        if not 0 <= step <= steps:
            raise DataError(
                f"step {step} of epoch {epoch} must be one of {steps}: the data, {self.shaped_by} or the number of"
                " micro-batches a step are not those of the run that saved this position."
            )
        self._position = (epoch, step) if step < steps else (epoch + 1, 0)

    def _left(self) -> tuple[int, Iterator[tuple[int, range]]]:
        """The epoch of the position, and each step that is left of it with the numbers of this rank's micro-batches."""
        epoch, first = self._position if self.training else (0, 0)
        each, batches = self.batches_per_step, self.num_batches(epoch)
        return epoch, (
            (step, range(step * each + self.rank, min((step + 1) * each, batches), self.world))
            for step in range(first, self.steps(epoch))
        )

    def _taken(self, epoch: int, step: int) -> None:
        """Goes on from a step."""
        if self.training:
            self.set_position(epoch, step + 1)
