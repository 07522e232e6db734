"""Error rates equal jiwer's and NeMo's, and states add."""

import json
import math
from pathlib import Path

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anemone.metrics.wer import Edits, align, cer, character_edits, wer, word_edits

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/parity/metrics/values.json").read_text("utf-8"))

words = st.lists(st.sampled_from(["a", "b", "c", "dd"]), max_size=14)


@given(words, words.filter(bool))
@settings(max_examples=300, deadline=None)
def test_edits_are_those_of_jiwer(hypothesis, reference):
    expected = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    edits = Edits.of(word_edits([" ".join(hypothesis)], [" ".join(reference)]))
    assert edits[:3] == (expected.substitutions, expected.deletions, expected.insertions)
    assert edits.rate == pytest.approx(expected.wer)


@given(st.text("ab é", max_size=30), st.text("ab é", min_size=1, max_size=30).filter(str.strip))
@settings(max_examples=200, deadline=None)
def test_character_error_rate_is_that_of_jiwer(hypothesis, reference):
    hypothesis, reference = hypothesis.strip(), reference.strip()
    assert cer([hypothesis], [reference]) == pytest.approx(jiwer.cer(reference, hypothesis))


@pytest.mark.parametrize("pair", GOLDEN["pairs"], ids=repr)
def test_rates_of_single_texts_equal_those_of_nemo(pair):
    hypothesis, reference = pair
    for by_character, count in ((False, word_edits), (True, character_edits)):
        value, detail = GOLDEN[f"{hypothesis!r}|{reference!r}|cer={by_character}"]
        edits = Edits.of(count([hypothesis], [reference]))
        assert edits.rate == pytest.approx(value)
        assert edits.length == detail[1]
        if not math.isinf(value):
            rates = [n / edits.length for n in (edits.insertions, edits.deletions, edits.substitutions)]
            assert rates == pytest.approx(detail[2:])


def test_rates_of_a_corpus_equal_those_of_nemo():
    finite = [(h, r) for h, r in GOLDEN["pairs"] if r]
    hypotheses, references = [h for h, _ in finite], [r for _, r in finite]
    assert wer(hypotheses, references) == pytest.approx(GOLDEN["corpus_wer"])
    assert cer(hypotheses, references) == pytest.approx(GOLDEN["corpus_cer"])


def test_states_add():
    hypotheses, references = ["a b", "c d e", "", "x"], ["a c", "c e", "y z", "x"]
    parts = word_edits(hypotheses[:2], references[:2]) + word_edits(hypotheses[2:], references[2:])
    assert parts.tolist() == word_edits(hypotheses, references).tolist()
    assert (parts + word_edits([], [])).tolist() == parts.tolist()


def test_nothing_said_and_nothing_heard_is_no_error():
    assert wer([], []) == 0.0
    assert wer([""], [""]) == 0.0
    assert wer(["a"], [""]) == math.inf


def test_long_texts_are_quick():
    """Some 10^8 cells, as bits; a table in Python would take a minute."""
    import time

    start = time.perf_counter()
    edits = align("abcde " * 1700, "bcdea " * 1700)
    assert edits.length == 10_200
    assert time.perf_counter() - start < 5


def test_texts_must_pair_up():
    with pytest.raises(ValueError, match="longer"):
        wer(["a"], ["a", "b"])
