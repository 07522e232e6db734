"""The batch plan: which utterances go together, and in which order.

A plan is a pure function of (durations, settings, seed, epoch). It knows nothing of ranks or workers, so whoever reads
it, and from wherever it is resumed, the micro-batches are the same.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anemone.config import must

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """How utterances become micro-batches."""

    batch_size: int | None = None
    """Most utterances in a micro-batch; 32 if neither this nor `max_batch_seconds` is given."""

    max_batch_seconds: float | None = None
    """Most seconds of a micro-batch with its padding (longest utterance x their number); one alone may be longer."""

    num_buckets: int = 1
    """Groups of like duration that batches are drawn from: more groups mean less padding and less mixing."""

    shuffle: bool = True
    """Whether the order changes from epoch to epoch (training)."""

    min_seconds: float = 0.0
    """Shorter utterances are left out."""

    max_seconds: float | None = None
    """Longer utterances are left out."""

    def __post_init__(self) -> None:
        size, budget, most = self.batch_size, self.max_batch_seconds, self.max_seconds
        must(size is None or size >= 1, "batch_size", "1 or more", value=size)
        must(budget is None or budget > 0, "max_batch_seconds", "above 0", value=budget)
        must(self.num_buckets >= 1, "num_buckets", "1 or more", value=self.num_buckets)
        must(self.min_seconds >= 0, "min_seconds", "0 or more", value=self.min_seconds)
        must(
            most is None or most > self.min_seconds,
            "max_seconds",
            f"above min_seconds ({self.min_seconds:g})",
            value=most,
        )

    @property
    def size(self) -> int | None:
        """Most utterances in a micro-batch, after defaults."""
        return 32 if self.batch_size is None and self.max_batch_seconds is None else self.batch_size


def plan(durations: npt.NDArray[np.float32], config: PlanConfig, *, seed: int, epoch: int) -> list[Rows]:
    """Returns the micro-batches of an epoch as arrays of row numbers; every row that is not left out stands in one.

    Args:
        durations: (N,) seconds of each utterance.
        config: sizes, buckets, order.
        seed: of the run.
        epoch: from 0.
    """
    rows = np.flatnonzero(within(durations, config))
    rng = np.random.default_rng([seed, epoch])
    if config.shuffle:
        rows = rng.permutation(rows)
    rows = rows[np.argsort(_buckets(durations[rows], config.num_buckets), kind="stable")]
    ends = _ends(durations[rows], config)
    batches = np.split(rows, ends[:-1]) if len(rows) else []
    return [batches[i] for i in rng.permutation(len(batches))] if config.shuffle else batches


def within(durations: npt.NDArray[np.float32], config: PlanConfig) -> npt.NDArray[np.bool_]:
    """Tells of each utterance whether it is neither too short nor too long: (N,)."""
    most = np.inf if config.max_seconds is None else config.max_seconds
    return (durations >= config.min_seconds) & (durations <= most)


def _buckets(durations: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """The bucket of each utterance, shortest first; all buckets hold the same seconds of audio, as nearly as can be."""
    ranks = np.empty(len(durations), np.int64)
    order = np.argsort(durations, kind="stable")
    share = np.cumsum(durations[order], dtype=np.float64)
    ranks[order] = np.minimum(share * count / max(share[-1], 1e-9), count - 1) if len(share) else 0
    return ranks


def _ends(durations: npt.NDArray[np.float32], config: PlanConfig) -> list[int]:
    """Where to cut a sequence so that each piece keeps to the size and to the budget of padded seconds."""
    size = config.size or len(durations)
    if config.max_batch_seconds is None:
        return [*range(size, len(durations), size), len(durations)]
    ends, start, window = [], 0, 64
    while start < len(durations):
        longest = np.maximum.accumulate(durations[start : start + min(window, size)], dtype=np.float64)
        fits = np.searchsorted(longest * np.arange(1, len(longest) + 1), config.max_batch_seconds, side="right")
        if fits == len(longest) < min(size, len(durations) - start):
            window *= 2  # all of the window fits: look further
            continue
        start += max(1, int(fits))
        ends.append(start)
    return ends
