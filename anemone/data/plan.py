"""The batch plan: which utterances go together, and in which order.

A plan is a pure function of (durations, text lengths, sets, settings, seed, epoch). It knows nothing of ranks or
workers, so whoever reads it, and from wherever it is resumed, the micro-batches are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from anemone.config import must
from anemone.data.buckets import Floats, Numbers, buckets, buckets_within, ends_of, fitting, small
from anemone.data.buckets import Rows as Rows
from anemone.data.mixing import drawn, draws, shuffled


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """How utterances become micro-batches."""

    batch_size: int | None = None
    """Most utterances in a micro-batch; 32 if there is no budget either."""

    max_batch_seconds: float | None = None
    """Most seconds of a micro-batch with its padding (longest utterance x their number); one alone may be longer."""

    quadratic_duration: float | None = None
    """Attention costs the square of the length: in `max_batch_seconds`, d seconds then count as d + d² / this. 15 to 40
    suits transformers; null counts seconds alone."""

    max_batch_chars: int | None = None
    """Most characters of a micro-batch with their padding (longest text x their number); one alone may be longer."""

    num_buckets: int = 1
    """Groups of like duration that batches are drawn from: more groups mean less padding and less mixing."""

    num_text_buckets: int = 1
    """Groups of like text length within each group of like duration."""

    shuffle: bool = True
    """Whether the order changes from epoch to epoch (training)."""

    shuffle_window: int | None = None
    """Shuffle pieces of so many neighbouring utterances, and within each, so that reading stays near, as in a tar; null
    shuffles all."""

    num_strata: int = 1
    """Groups of micro-batches of like cost; of so many successive ones each is of another group, so that steps hold
    about as much audio while buckets mix."""

    worst_first: bool = False
    """Whether a run begins with its costliest micro-batches, so that too little memory shows in the first minute."""

    weights: tuple[float, ...] = ()
    """Shares of the training sets, one each; none takes each utterance once an epoch."""

    temperature: float | None = None
    """Draws sets by weight (number of utterances without `weights`) to the power of 1 / this: above 1, small ones
    more."""

    epoch_size: int | None = None
    """Utterances that an epoch draws with `weights` or `temperature`; null for as many as there are."""

    min_seconds: float = 0.0
    """Shorter utterances are left out."""

    max_seconds: float | None = None
    """Longer utterances are left out."""

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "max_batch_chars",
            "num_buckets",
            "num_text_buckets",
            "shuffle_window",
            "num_strata",
        ):
            value = getattr(self, name)
            must(value is None or value >= 1, name, "1 or more", value=value)
        for name in ("max_batch_seconds", "quadratic_duration", "temperature"):
            value = getattr(self, name)
            must(value is None or value > 0, name, "above 0", value=value)
        least, most, size = self.min_seconds, self.max_seconds, self.epoch_size
        must(least >= 0, "min_seconds", "0 or more", value=least)
        must(most is None or most > least, "max_seconds", f"above min_seconds ({least:g})", value=most)
        quadratic, weights = self.quadratic_duration, self.weights
        rule = "null where `max_batch_seconds` is, the budget it belongs to"
        must(quadratic is None or self.max_batch_seconds is not None, "quadratic_duration", rule, value=quadratic)
        fine = all(0 <= weight < np.inf for weight in weights) and (not weights or sum(weights) > 0)
        must(fine, "weights", "0 or more each, and not all 0", value=list(weights))
        must(size is None or size >= 1, "epoch_size", "1 or more", value=size)
        rule = "null where neither `weights` nor `temperature` is set"
        must(size is None or self.mixes, "epoch_size", rule, value=size)
        must(self.shuffle or not self.mixes, "shuffle", "true where sets are mixed", value=self.shuffle)

    @property
    def size(self) -> int | None:
        """Most utterances in a micro-batch, after defaults."""
        return 32 if self.batch_size is None and not self.budgeted else self.batch_size

    @property
    def budgeted(self) -> bool:
        """Whether the number of micro-batches may differ from epoch to epoch."""
        return self.max_batch_seconds is not None or self.max_batch_chars is not None

    @property
    def mixes(self) -> bool:
        """Whether sets are drawn by shares, and not each utterance once."""
        return bool(self.weights) or self.temperature is not None

    @property
    def reads_text(self) -> bool:
        """Whether lengths of texts matter."""
        return self.max_batch_chars is not None or self.num_text_buckets > 1 or self.worst_first


class Plan(Sequence[Rows]):
    """The micro-batches of an epoch: arrays of row numbers, in the order that they are read.

    Args:
        rows: (n,) row numbers, micro-batch after micro-batch.
        copies: (n,) how often each was drawn before: the epoch, unless sets are mixed by shares.
        ends: (m,) where each micro-batch ends in ``rows``.
        order: (m,) numbers of the micro-batches in the order that they are read.
    """

    def __init__(self, rows: Rows, copies: Rows, ends: Rows, order: Rows) -> None:
        self.rows, self.ends, self.order = rows, ends, order
        self._copies = copies

    def __len__(self) -> int:
        """Number of micro-batches."""
        return len(self.order)

    @overload
    def __getitem__(self, number: int) -> Rows: ...

    @overload
    def __getitem__(self, number: slice) -> list[Rows]: ...

    def __getitem__(self, number: int | slice) -> Rows | list[Rows]:
        """Row numbers of a micro-batch, or of several."""
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        return self.rows[self._piece(number)]

    def copies(self, number: int) -> Rows:
        """How often each utterance of a micro-batch was drawn before, which its augmentation depends on."""
        return self._copies[self._piece(number)]

    @property
    def starts(self) -> Rows:
        """Where each micro-batch begins in ``rows``: (m,)."""
        return np.append(np.zeros(1, np.int64), self.ends)[:-1]

    def _piece(self, number: int) -> slice:
        place = int(self.order[number])
        return slice(int(self.ends[place - 1]) if place else 0, int(self.ends[place]))


def plan(
    durations: Floats,
    config: PlanConfig,
    *,
    seed: int,
    epoch: int,
    text_lens: Numbers | None = None,
    sets: Numbers | None = None,
) -> Plan:
    """Returns the micro-batches of an epoch.

    Every row that is not left out stands in one of them, once; where sets are mixed by shares, as often as it is drawn.

    Args:
        durations: (N,) seconds of each utterance.
        config: sizes, buckets, order.
        seed: of the run.
        epoch: from 0.
        text_lens: (N,) characters of each; nothing is known of them by default.
        sets: (N,) number of each one's set, from 0; one set by default.

    Raises:
        ConfigError: the sets are not those that the settings weigh.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = np.flatnonzero(within(durations, config))
    if config.mixes:
        sets = np.zeros(len(durations), np.int64) if sets is None else sets
        counts = set_draws(durations, config, sets)
        rows, copies = drawn(rows, sets[rows], counts, window=config.shuffle_window, seed=seed, epoch=epoch)
    else:
        rows = shuffled(rows, config.shuffle_window, rng) if config.shuffle else rows
        copies = np.broadcast_to(np.int64(epoch), rows.shape)
    if not len(rows):
        return Plan(rows, rows, rows, rows)
    groups = buckets(durations[rows], config.num_buckets)
    if config.num_text_buckets > 1 and text_lens is not None:
        groups = buckets_within(text_lens[rows], config.num_text_buckets, groups)
    places = np.argsort(small(groups), kind="stable")
    rows = rows[places]
    ends = ends_of(_most(durations[rows], None if text_lens is None else text_lens[rows], config), len(rows))
    order = _order(places, ends, durations[rows], config, rng)
    if config.worst_first and epoch == 0:
        order = _worst_first(order, rows, ends, durations, text_lens, config)
    return Plan(rows, copies[places] if config.mixes else copies, ends, order)


def within(durations: Floats, config: PlanConfig) -> npt.NDArray[np.bool_]:
    """Tells of each utterance whether it is neither too short nor too long: (N,)."""
    most = np.inf if config.max_seconds is None else config.max_seconds
    return (durations >= config.min_seconds) & (durations <= most)


def set_draws(durations: Floats, config: PlanConfig, sets: Numbers) -> list[int]:
    """Returns how many utterances an epoch draws of each set.

    Raises:
        ConfigError: the sets are not those that the settings weigh.
    """
    kept = np.bincount(sets[within(durations, config)], minlength=int(sets.max(initial=-1)) + 1)
    kept = np.append(kept, np.zeros(max(0, len(config.weights) - len(kept)), kept.dtype))  # of which no line is left
    temperature, total = config.temperature, config.epoch_size
    return draws(kept.tolist(), weights=config.weights, temperature=temperature, total=total)


# --- cuts and order ---------------------------------------------------------------------------------------------------


def _most(durations: Floats, text_lens: Numbers | None, config: PlanConfig) -> Rows:
    """How many utterances as long as each one go into a micro-batch: (n,)."""
    most = np.full(len(durations), config.size or len(durations))
    if config.max_batch_seconds is not None:
        most = np.minimum(most, fitting(_cost(durations, config), config.max_batch_seconds))
    if config.max_batch_chars is not None and text_lens is not None:
        most = np.minimum(most, fitting(text_lens.astype(np.float64), config.max_batch_chars))
    return most


def _cost(durations: Floats, config: PlanConfig) -> npt.NDArray[np.float64]:
    """Seconds of each utterance, with what attention adds: (n,)."""
    seconds = durations.astype(np.float64)
    return seconds if config.quadratic_duration is None else seconds + seconds**2 / config.quadratic_duration


def _order(places: Rows, ends: Rows, durations: Floats, config: PlanConfig, rng: np.random.Generator) -> Rows:
    """The order of the micro-batches: as they are, at random, window by window, or with strata of like cost spread."""
    if not config.shuffle:
        return np.arange(len(ends))
    if config.shuffle_window is None and config.num_strata == 1:
        return rng.permutation(len(ends))
    starts = np.append(0, ends[:-1])
    window = np.maximum.reduceat(places, starts) // (config.shuffle_window or len(places))
    cost = (ends - starts) * np.maximum.reduceat(_cost(durations, config), starts)
    order = np.lexsort((cost, window))
    place, size = _places(window[order])
    stratum = np.empty_like(order)
    stratum[order] = place * config.num_strata // size
    order = np.lexsort((rng.random(len(ends)), stratum, window))
    turn = np.empty_like(order)
    turn[order], _ = _places((window * config.num_strata + stratum)[order])
    return np.lexsort((rng.random(len(ends)), turn, window))


def _places(groups: Rows) -> tuple[Rows, Rows]:
    """Of each element of sorted groups, its place in its group, from 0, and the size of that: (n,) each."""
    starts = np.append(0, np.flatnonzero(np.diff(groups)) + 1)
    sizes = np.diff(np.append(starts, len(groups)))
    return np.arange(len(groups)) - np.repeat(starts, sizes), np.repeat(sizes, sizes)


def _worst_first(
    order: Rows, rows: Rows, ends: Rows, durations: Floats, text_lens: Numbers | None, config: PlanConfig
) -> Rows:
    """The order with the costliest micro-batches first: by seconds, by characters, and by the product of both."""
    starts = np.append(0, ends[:-1])
    sizes = ends - starts
    cost = np.maximum.reduceat(_cost(durations[rows], config), starts)
    measures = [sizes * cost]
    if text_lens is not None:
        chars = np.maximum.reduceat(text_lens[rows].astype(np.float64), starts)
        measures += [sizes * cost * chars, sizes * chars]
    worst = list(dict.fromkeys(int(measure.argmax()) for measure in measures))
    return np.append(np.array(worst), order[~np.isin(order, worst)])
