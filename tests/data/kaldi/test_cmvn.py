"""Normalisation by Kaldi's statistics."""

import numpy as np
import pytest

from anemone.data.kaldi.cmvn import by_speaker, normalize, statistics
from anemone.errors import DataError

DRAW = np.random.default_rng(0)
FEATURES = {name: (3 + 2 * DRAW.standard_normal((n, 4))).astype(np.float32) for name, n in (("a", 50), ("b", 70))}


def test_features_get_the_mean_and_variance_asked_for():
    stats = statistics(FEATURES.values())
    together = np.concatenate(list(FEATURES.values())).astype(np.float64)
    assert stats.shape == (2, 5) and stats[0, -1] == 120 and stats[1, -1] == 0
    mean = np.concatenate([normalize(f, stats, "mean") for f in FEATURES.values()])
    assert np.allclose(mean, together - together.mean(0), atol=1e-5) and mean.dtype == np.float32
    both = np.concatenate([normalize(f, stats, "mean_and_variance") for f in FEATURES.values()])
    assert np.allclose(both.mean(0), 0, atol=1e-5) and np.allclose(both.var(0), 1, atol=1e-4)
    assert normalize(FEATURES["a"], stats, "none") is FEATURES["a"]


def test_speakers_have_statistics_of_their_own():
    found = by_speaker(FEATURES.items(), {"a": "z", "b": "s"})
    assert list(found) == ["s", "z"]
    assert np.allclose(found["s"], statistics([FEATURES["b"]]))
    assert np.allclose(by_speaker(FEATURES.items(), {"a": "s", "b": "s"})["s"], statistics(FEATURES.values()))


def test_statistics_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"must be \(2, 5\) for these features, but are \(2, 4\)"):
        normalize(FEATURES["a"], np.zeros((2, 4)), "mean")
    with pytest.raises(DataError, match="one or more frames"):
        normalize(FEATURES["a"], np.zeros((2, 5)), "mean")
    with pytest.raises(DataError, match="one or more utterances"):
        statistics([])
