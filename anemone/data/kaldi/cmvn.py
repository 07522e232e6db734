"""Cepstral mean and variance normalisation, with statistics as Kaldi keeps them.

The statistics of a speaker (or utterance) with features of width F are a matrix (2, F + 1): the sums of the features
and in the last column the number of frames; below, the sums of their squares and 0.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from anemone.data.kaldi.matrices import Array
from anemone.errors import DataError

Norm = Literal["none", "mean", "mean_and_variance"]

LEAST_VARIANCE = 1e-20


def statistics(features: Iterable[Array]) -> Array:
    """Returns the statistics (2, F + 1) of some utterances (T, F), in float64.

    Raises:
        DataError: there is none.
    """
    total = None
    for matrix in features:
        own = np.zeros((2, matrix.shape[1] + 1))
        wide = matrix.astype(np.float64)
        own[0, :-1], own[0, -1], own[1, :-1] = wide.sum(0), len(wide), np.square(wide).sum(0)
        total = own if total is None else total + own
    if total is None:
        raise DataError("statistics must be of one or more utterances, but there is none.")
    return total


def by_speaker(features: Iterable[tuple[str, Array]], speakers: Mapping[str, str]) -> dict[str, Array]:
    """Returns the statistics of each speaker, sorted by the bytes of the names.

    Args:
        features: utterance and (T, F).
        speakers: utterance -> speaker, as in ``utt2spk``.
    """
    found: dict[str, Array] = {}
    for utterance, matrix in features:
        own, speaker = statistics([matrix]), speakers[utterance]
        found[speaker] = found[speaker] + own if speaker in found else own
    return dict(sorted(found.items(), key=lambda item: item[0].encode()))


def normalize(features: Array, stats: Array, norm: Norm, where: str = "statistics") -> Array:
    """Returns features (T, F) less their mean and, if asked for, with a variance of 1, in their own type.

    Args:
        features: of an utterance.
        stats: (2, F + 1).
        norm: ``mean`` or ``mean_and_variance``; ``none`` changes nothing.
        where: what to call the statistics in messages.

    Raises:
        DataError: the statistics are of another width, or of no frame.
    """
    if norm == "none":
        return features
    if stats.ndim != 2 or stats.shape != (2, features.shape[1] + 1):
        raise DataError(f"{where} must be (2, {features.shape[1] + 1}) for these features, but are {stats.shape}.")
    count = stats[0, -1]
    if not count > 0:
        raise DataError(f"{where} must be of one or more frames, but are of {count:g}.")
    mean, dtype = stats[0, :-1] / count, features.dtype
    centred: Array = features - mean.astype(dtype)
    if norm == "mean_and_variance":
        variance = np.maximum(stats[1, :-1] / count - np.square(mean), LEAST_VARIANCE)
        centred *= (1 / np.sqrt(variance)).astype(dtype)
    return centred
