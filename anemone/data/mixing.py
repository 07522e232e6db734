"""The order that utterances of an epoch come in: shuffled as a whole or in windows, of one set or several by shares.

Sets that are mixed are gone through without end, each pass over a set in an order of its own: an epoch takes the next
so many utterances of each. So no utterance comes again before all of its set came, how often a set is drawn in an
epoch is exact, and which utterances an epoch draws is a pure function of (numbers, shares, seed, epoch).
"""

from collections.abc import Sequence

import numpy as np

from anemone.config import must
from anemone.data.buckets import Numbers, Rows


def shuffled(rows: Rows, window: int | None, rng: np.random.Generator) -> Rows:
    """Returns the rows in random order; with a window, pieces of so many neighbours in random order, each shuffled."""
    if window is None or window >= len(rows):
        return rng.permutation(rows)
    piece = np.arange(len(rows)) // window
    return rows[np.lexsort((rng.random(len(rows), np.float32), rng.permutation(piece[-1] + 1)[piece]))]


def draws(
    numbers: Sequence[int], *, weights: Sequence[float] = (), temperature: float | None = None, total: int | None = None
) -> list[int]:
    """Returns how many utterances an epoch draws of each set: the shares of the total, rounded by largest remainder.

    A share is proportional to ``weight ** (1 / temperature)``: 1 keeps the weights, infinity makes sets equal
    (arXiv:1907.05019). Without weights the sizes of the sets stand for them.

    Example:
        >>> draws([900, 100]), draws([900, 100], temperature=2), draws([900, 100], weights=[1, 1])
        ([900, 100], [750, 250], [500, 500])

    Args:
        numbers: utterances of each set.
        weights: of each set.
        temperature: 1 by default.
        total: draws of an epoch; as many as there are utterances by default.

    Raises:
        ConfigError: there is not one weight a set, or a set of which some shall be drawn is empty.
    """
    must(len(weights) in (0, len(numbers)), "data.plan.weights", f"one a set ({len(numbers)})", value=list(weights))
    for weight, number in zip(weights, numbers, strict=False):
        rule = "0 for a set of which no utterance is left"
        must(weight == 0 or number > 0, "data.plan.weights", rule, value=list(weights))
    shares = np.asarray(weights or numbers, np.float64)
    shares = np.where(shares > 0, shares / max(shares.max(), 1e-300), 0) ** (1 / (temperature or 1)) * (shares > 0)
    total = sum(numbers) if total is None else total
    exact = shares / max(shares.sum(), 1e-300) * total
    whole = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: total - whole.sum()]] += 1
    return [int(number) for number in whole]


def drawn(
    rows: Rows, sets: Numbers, counts: Sequence[int], *, window: int | None, seed: int, epoch: int
) -> tuple[Rows, Rows]:
    """Returns the rows that an epoch draws, the sets spread evenly, and how often each row was drawn before.

    Args:
        rows: (n,) there are.
        sets: (n,) number of each row's set.
        counts: draws of each set, as `draws` gives them.
        window: as in `shuffled`.
        seed: of the run.
        epoch: from 0.
    """
    order = np.argsort(sets.astype(np.int32), kind="stable")
    bounds = np.searchsorted(sets[order], np.arange(len(counts) + 1))
    parts, turns, places = [rows[:0]], [rows[:0]], [np.zeros(0)]
    for number, count in enumerate(counts):
        own = rows[order[bounds[number] : bounds[number + 1]]]
        part, turn = _taken(own, count, window, [seed, number], epoch)
        parts.append(part)
        turns.append(turn)
        places.append((np.arange(count) + np.random.default_rng([seed, epoch, number + 1]).random(count)) / count)
    order = np.argsort(np.concatenate(places), kind="stable")
    return np.concatenate(parts)[order], np.concatenate(turns)[order]


def _taken(own: Rows, count: int, window: int | None, key: list[int], epoch: int) -> tuple[Rows, Rows]:
    """Draws ``epoch * count`` and on of endless passes over a set, and the number of the pass that each is of."""
    if not count:
        return own[:0], own[:0]
    start, stop = epoch * count, (epoch + 1) * count
    first, last = start // len(own), -(-stop // len(own))
    passes = [shuffled(own, window, np.random.default_rng([*key, turn, 1])) for turn in range(first, last)]
    turns = np.arange(start, stop) // len(own)
    return np.concatenate(passes)[start - first * len(own) : stop - first * len(own)], turns
