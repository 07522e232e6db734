"""Groups of like length, and cuts: what of a sequence of utterances goes into one micro-batch."""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.integer]


def buckets(lengths: Floats | Numbers, count: int) -> Rows:
    """The bucket of each utterance, shortest first; all buckets hold the same length, as nearly as can be."""
    ranks = np.empty(len(lengths), np.int64)
    order = _sorting(lengths)
    share = np.cumsum(lengths[order], dtype=np.float64)
    ranks[order] = np.minimum(share * count / max(share[-1], 1e-9), count - 1) if len(share) else 0
    return ranks


def buckets_within(lengths: Numbers, count: int, groups: Rows) -> Rows:
    """Buckets of like text length within each group; from one group to the next they go up and down in turns."""
    order = np.argsort(small(groups), kind="stable")
    numbers = np.empty(len(lengths), np.int64)
    for place in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        group, inner = groups[place[0]], buckets(lengths[place], count)
        numbers[place] = group * count + (count - 1 - inner if group % 2 else inner)
    return numbers


def _sorting(lengths: Floats | Numbers) -> Rows:
    """A stable order of lengths from 0: float32 sort as their bits do, which go by halves in linear time."""
    if lengths.dtype != np.float32 or len(lengths) < 1000 or lengths.min() < 0:
        return np.argsort(lengths, kind="stable")
    bits = lengths.view(np.uint32)
    order = np.argsort(bits.astype(np.uint16), kind="stable")
    return order[np.argsort((bits[order] >> np.uint32(16)).astype(np.uint16), kind="stable")]


def small(groups: Rows) -> Numbers:
    """Group numbers in as few bits as they need: 16 are sorted in linear time."""
    return groups.astype(np.min_scalar_type(int(groups.max(initial=0))))


def fitting(cost: npt.NDArray[np.float64], budget: float) -> Rows:
    """The largest numbers n with n * cost <= budget, but at least 1: (n,)."""
    number = np.minimum(budget / np.maximum(cost, 1e-9), 2.0**31).astype(np.int64)
    number += (number + 1) * cost <= budget  # the quotient is rounded
    number -= number * cost > budget
    return np.maximum(number, 1)


def ends_of(most: Rows, count: int) -> Rows:
    """Where to cut a sequence so that no piece has more utterances than any of it lets in; each takes all it can."""
    if (most == most[0]).all():
        return np.append(np.arange(most[0], count, most[0]), count)
    ends, start, fit = [], 0, count
    for place, limit in enumerate(most.tolist()):
        if limit < fit:  # three times as fast as min()
            fit = limit
        if place - start >= fit:
            ends.append(place)
            start, fit = place, limit
    return np.array([*ends, count])
