"""A random order of any number of rows, of which any part can be had without making the whole."""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

ROUNDS = 6


def shuffled(places: Numbers, size: int, *, seed: int, epoch: int) -> Numbers:
    """Returns the rows at some places of a random order, which is a pure function of (size, seed, epoch).

    A Feistel network permutes the numbers below a power of 4; where a row comes out that does not exist, it is put
    through again until one comes that does ("cycle walking", Black and Rogaway 2002).

    Example:
        >>> sorted(shuffled(np.arange(5), 5, seed=0, epoch=0).tolist())
        [0, 1, 2, 3, 4]

    Args:
        places: (n,) each in 0..size-1.
        size: number of rows.
        seed: of the run.
        epoch: from 0.
    """
    bits = max(1, -(-(size - 1).bit_length() // 2))
    keys = np.random.default_rng([seed, epoch]).integers(0, 2**63, ROUNDS, dtype=np.uint64)
    rows = _permute(places.astype(np.uint64), bits, keys)
    while (outside := rows >= size).any():
        rows[outside] = _permute(rows[outside], bits, keys)
    return rows.astype(np.int64)


def _permute(numbers: npt.NDArray[np.uint64], bits: int, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Permutes numbers of ``2 * bits`` bits: each round mixes one half into the other."""
    mask, shift = np.uint64((1 << bits) - 1), np.uint64(bits)
    left, right = numbers >> shift, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << shift) | right


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Numbers that look random: the finalizer of SplitMix64."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
