"""The report on a recogniser adds up, names the commonest mistakes, and groups by any column."""

import jiwer
import pytest

from anemone.features.text import plain
from anemone.metrics.recognition import Heard, contrast, report

SAID = ["the cat sat", "on the mat", "a dog ran off", "the cat ran"]
UNDERSTOOD = ["the hat sat", "on mat", "a dog ran off now", "the hat ran"]
HEARD = [
    Heard(str(i), said, understood, {"speaker": "ab"[i % 2], "duration": 1.0 + i})
    for i, (said, understood) in enumerate(zip(SAID, UNDERSTOOD, strict=True))
]


def test_rates_are_those_of_the_referee():
    found = report(HEARD, plain=plain)["all"]
    assert found["wer"] == pytest.approx(jiwer.wer(SAID, UNDERSTOOD))
    assert found["cer"] == pytest.approx(jiwer.cer(SAID, UNDERSTOOD))
    assert found["wer_interval"][0] <= found["wer"] <= found["wer_interval"][1]
    assert found["substitutions"] + found["deletions"] + found["insertions"] == pytest.approx(found["wer"])
    assert (found["utterances"], found["words"], found["sentences_wrong"]) == (4, 13, 1.0)


def test_the_commonest_mistakes_come_first():
    found = report(HEARD, plain=plain)
    assert found["confusions"] == [{"word": "cat", "taken_for": "hat", "times": 2}]
    assert found["deleted"] == [{"word": "the", "times": 1}]
    assert found["inserted"] == [{"word": "now", "times": 1}]


def test_slices_hold_every_utterance_once():
    found = report(HEARD, ["speaker", "duration", "unknown"], plain=plain)["slices"]
    assert list(found["speaker"]) == ["a", "b"]
    assert list(found["duration"]) == ["1.0", "2.0", "3.0", "4.0"]
    assert list(found["unknown"]) == ["(none)"]
    for parts in found.values():
        assert sum(part["utterances"] for part in parts.values()) == 4
    assert found["speaker"]["a"]["wer"] == pytest.approx(2 / 7)


def test_many_numbers_become_four_ranges_in_order():
    many = [HEARD[i % 4]._replace(columns={"duration": float(i) if i else None}) for i in range(101)]
    found = report(many, ["duration"], plain=plain)["slices"]["duration"]
    assert list(found) == ["1 to 25.75", "25.75 to 50.5", "50.5 to 75.25", "75.25 to 100", "(none)"]
    assert [part["utterances"] for part in found.values()] == [25, 25, 25, 25, 1]


def test_case_and_punctuation_are_forgiven_beside_what_is_written():
    found = report([Heard("0", "Don't stop, Bob!", "don't stop bob", {})], plain=plain)
    assert found["all"]["wer"] == 1.0
    assert found["plain"]["wer"] == 0.0


def test_two_systems_are_compared_utterance_by_utterance():
    right = [row._replace(hypothesis=row.reference) for row in HEARD]
    found = contrast(HEARD, [right[0], *HEARD[1:]])
    assert (found["better"], found["equal"], found["worse"]) == (1, 3, 0)
    assert found["wer"]["difference"] == pytest.approx(-1 / 13)
