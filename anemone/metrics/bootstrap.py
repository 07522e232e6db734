"""How sure an error rate is, and whether one system is better than another: both by drawing the utterances anew.

An error rate is a ratio of sums over utterances, (edits, length). Its interval comes from rates of sets of as many
utterances, drawn with replacement (Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
evaluation", ICASSP 2004). Two systems on the same utterances are compared in pairs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DRAWS = 2_000
PIECE = 4_000_000  # numbers drawn at a time

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """Where a rate lies in 95 % of the draws."""

    low: float
    high: float


class Comparison(NamedTuple):
    """What the second of two systems changes."""

    difference: float
    """Its rate less that of the first; below 0 it is better."""

    interval: Interval
    """Of the difference."""

    p_value: float
    """How often a difference as large comes about where the two systems' answers to each utterance are swapped at
    random: the systems differ where it is small (approximate randomisation, two-sided)."""


def interval(counts: Counts, *, seed: int = 0) -> Interval:
    """Computes the 95 % bootstrap interval of a rate.

    Example:
        >>> low, high = interval(np.array([[1, 10], [0, 10], [2, 10], [0, 10]]))
        >>> low <= 3 / 40 <= high
        True

    Args:
        counts: (N, 2) edits and length of each utterance.
        seed: of the draws.
    """
    sums = np.concatenate([counts[drawn].sum(1) for drawn in _draws(len(counts), seed)])
    return _middle(_rates(sums))


def compare(first: Counts, second: Counts, *, seed: int = 0) -> Comparison:
    """Compares two systems over the same utterances.

    Example:
        >>> first = np.array([[2, 10], [1, 10], [3, 10], [2, 10]] * 20)
        >>> second = first - [1, 0]
        >>> found = compare(first, second)
        >>> round(found.difference, 3), found.p_value < 0.01
        (-0.1, True)

    Args:
        first: (N, 2) edits and length of each utterance.
        second: of the other system, in the same order; its lengths are those of the first.
        seed: of the draws.

    Raises:
        ValueError: the lengths differ.
    """
    if first.shape != second.shape or (first[:, 1] != second[:, 1]).any():
        raise ValueError("two systems are compared over the same references, but the lengths of these differ.")
    gain, length = second[:, 0] - first[:, 0], first[:, 1]
    both = np.stack([gain, length], 1)
    sums = np.concatenate([both[drawn].sum(1) for drawn in _draws(len(both), seed)])
    total = gain.sum()
    generator, reached = np.random.default_rng([seed, 1]), 0
    for number in _pieces(len(gain)):
        signs = generator.integers(0, 2, (number, len(gain)), dtype=np.int8) * 2 - 1
        reached += int((abs(signs @ gain) >= abs(total)).sum())
    return Comparison(float(total / max(length.sum(), 1)), _middle(_rates(sums)), (reached + 1) / (DRAWS + 1))


def _draws(number: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yields row numbers (some draws, N), `DRAWS` draws in all."""
    generator = np.random.default_rng([seed, 0])
    for draws in _pieces(number):
        yield generator.integers(0, number, (draws, number))


def _pieces(number: int) -> Iterator[int]:
    """How many draws of so many numbers to make at a time."""
    most = max(1, PIECE // max(number, 1))
    yield from (min(most, DRAWS - start) for start in range(0, DRAWS, most))


def _rates(sums: Counts) -> Floats:
    return sums[:, 0] / np.maximum(sums[:, 1], 1)


def _middle(rates: Floats) -> Interval:
    return Interval(*map(float, np.quantile(rates, (0.025, 0.975))))
