"""Words are matched in order, cut at quiet points, and prompts that share a recording stay on one side of the split."""

import importlib
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
RATE = 16_000


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPES))
    return importlib.import_module("spoken_words")


@pytest.fixture
def divide(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.syspath_prepend(str(RECIPES / "telephone_words"))
    return importlib.import_module("divide")


def bursts(*spans: tuple[float, float], seconds: float, seed: int = 0) -> np.ndarray:
    """Noise between the given times, silence elsewhere."""
    wave = np.zeros(round(seconds * RATE), np.float32)
    rng = np.random.default_rng(seed)
    for start, end in spans:
        wave[round(start * RATE) : round(end * RATE)] = rng.normal(0, 0.1, round((end - start) * RATE))
    return wave


def test_only_words_that_agree_in_order_and_stand_alone_are_dated(words):
    heard = [words.Heard(word, at, at + 0.3) for at, word in enumerate([" Now", " press", " the key,", " please."])]
    found = list(words.agreed(["press", "the", "key", "please", "now"], heard, str.lower))
    assert found == [(0, 1), (3, 3)]


def test_a_boundary_moves_into_the_pause_and_the_pause_is_trimmed(words):
    wave = bursts((0.2, 0.7), (0.9, 1.4), seconds=2)
    heard = [words.Heard("press", 0.1, 0.68), words.Heard("one", 0.68, 1.9)]
    (first, second) = words.spans(wave, ["press", "one"], heard, str.lower)
    assert first == (0, pytest.approx((0.15, 0.75), abs=0.02))
    assert second == (1, pytest.approx((0.85, 1.45), abs=0.02))


def test_a_lone_word_needs_no_recogniser_and_too_long_a_word_is_dropped(words):
    assert [index for index, _ in words.spans(bursts((0.5, 1.0), seconds=2), ["one"], [], str.lower)] == [0]
    assert not list(words.spans(bursts((0.5, 1.8), seconds=2), ["one"], [], str.lower))
    assert not list(words.spans(np.zeros(RATE, np.float32), ["one"], [], str.lower))


def test_a_take_is_faded_at_both_ends(words):
    cut = words.faded(np.ones(RATE, np.float32), 0.25, 0.75)
    assert len(cut) == RATE // 2
    assert cut[0] == cut[-1] == 0 and cut[len(cut) // 2] == 1


def test_one_recording_cut_twice_is_told_from_two_takes(divide):
    one, other = bursts((0.1, 0.6), seconds=1), bursts((0.1, 0.6), seconds=1, seed=1)
    peaks = {(i, j): peak for i, j, peak in divide.alike([one, 0.5 * np.roll(one, 500)[300:], other])}
    assert peaks[0, 1] > 0.95
    assert max(peaks[0, 2], peaks[1, 2]) < divide.SAME_RECORDING


def test_groups_stay_whole_and_words_are_shared_out_as_asked(divide):
    found = [divide.Take("en", f"p{n}", word, 0.0, 0.5) for n in range(100) for word in ("press", "one")[: 1 + n % 2]]
    group = {f"p{n}": f"p{n - n % 3}" for n in range(100)}
    split = divide.divide(found, group)
    assert split.keys() == set(group.values())
    for word in ("press", "one"):
        count = Counter(split[group[take.prompt]] for take in found if take.word == word)
        total = sum(count.values())
        assert {part: count[part] / total for part in divide.SHARES} == pytest.approx(divide.SHARES, abs=0.1)
    assert divide.divide(found, group) == split
