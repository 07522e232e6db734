"""How much a plan is: its micro-batches, their audio, and how much of it is padding."""

from typing import NamedTuple

import numpy as np

from anemone.data.buckets import Floats
from anemone.data.plan import Plan


class PlanStatistics(NamedTuple):
    """How much the micro-batches of an epoch are."""

    batches: int
    """Micro-batches."""

    utterances: int
    """Utterances in them, counted as often as they come."""

    smallest: int
    """Utterances of the smallest micro-batch."""

    largest: int
    """Utterances of the largest micro-batch."""

    seconds: float
    """Of audio."""

    padded_seconds: float
    """Of audio with its padding."""

    longest: float
    """Padded seconds of the micro-batch that has most."""

    @property
    def padding(self) -> float:
        """Share of the padded seconds that is padding, from 0."""
        return 1 - self.seconds / self.padded_seconds if self.padded_seconds else 0.0

    def __str__(self) -> str:
        """One line for people."""
        sizes = f"{self.smallest} to {self.largest}" if self.smallest < self.largest else f"{self.largest}"
        return (
            f"{self.batches:,} micro-batches of {sizes} utterances, at most {self.longest:.1f} s with padding,"
            f" which is {self.padding:.1%} of all"
        )


def statistics(plan: Plan, durations: Floats) -> PlanStatistics:
    """Returns how much the micro-batches of a plan are.

    Args:
        plan: of an epoch.
        durations: (N,) seconds of each utterance.
    """
    if not len(plan):
        return PlanStatistics(0, 0, 0, 0, 0.0, 0.0, 0.0)
    sizes, seconds = plan.ends - plan.starts, durations[plan.rows]
    padded = sizes * np.maximum.reduceat(seconds, plan.starts).astype(np.float64)
    return PlanStatistics(
        len(plan),
        len(seconds),
        int(sizes.min()),
        int(sizes.max()),
        float(seconds.sum(dtype=np.float64)),
        float(padded.sum()),
        float(padded.max()),
    )
