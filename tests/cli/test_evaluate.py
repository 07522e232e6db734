"""`evaluate` prints what `anemone.training.evaluation.evaluate` computes."""

import json
import re

import numpy as np
import pytest
import soundfile

import anemone as package
from anemone.training.evaluation import evaluate


def test_metrics_are_printed_as_a_table_and_as_json(anemone, classifier, manifest):
    expected = evaluate(package.load(classifier), [manifest])
    ran = anemone("evaluate", classifier, manifest, "--json")
    assert ran.status == 0
    row = json.loads(ran.out)
    wrong = row.pop("confusions")
    assert sum(mistake["times"] for mistake in wrong) == round(3 * (1 - row["accuracy"])) > 0
    assert (row.pop("model"), row.pop("data")) == (str(classifier), [str(manifest)])
    assert row == pytest.approx(expected)
    lines = anemone("evaluate", classifier, manifest, "--batch-size", 1).out.splitlines()
    assert {line.split()[0] for line in lines[1 : lines.index("")]} == set(expected) - {"left_out"}
    mistakes = [line.split() for line in lines[lines.index("") + 2 :]]
    assert mistakes == [[m["label"], m["taken_for"], str(m["times"])] for m in wrong]


def test_what_could_not_be_used_is_told(anemone, classifier, manifest):
    with manifest.open("a") as file:
        file.write(json.dumps({"audio_filepath": "absent.wav", "duration": 1.0, "label": "yes"}) + "\n{\n")
    row = json.loads(anemone("evaluate", classifier, manifest, "--json").out)
    assert (row["utterances"], row["left_out"]) == (3, 2)
    words = [line.split() for line in anemone("evaluate", classifier, manifest).out.splitlines()]
    assert ["utterances", "3"] in words and ["left_out", "2"] in words


@pytest.fixture
def said(manifest):
    """The manifest with texts, and speakers."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    texts = ("yes i do", "no", "stop that")
    rows = [row | {"text": text, "speaker": "ab"[i % 2]} for i, (row, text) in enumerate(zip(rows, texts, strict=True))]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def test_a_recogniser_has_rates_with_intervals_slices_and_mistakes(anemone, recogniser, said):
    found = json.loads(anemone("evaluate", recogniser, said, "--by", "speaker", "--json").out)
    expected = evaluate(package.load(recogniser), [said])
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["all"]["wer"] == pytest.approx(expected["wer"])
    assert {name: part["utterances"] for name, part in found["slices"]["speaker"].items()} == {"a": 2, "b": 1}
    text = anemone("evaluate", recogniser, said, "--by", "speaker").out
    assert "95 %" in text and "speaker" in text and "substitutions" in text


def test_what_was_heard_stands_for_the_model(anemone, recogniser, said):
    first = json.loads(anemone("evaluate", recogniser, said, "--save", "heard.jsonl", "--json").out)
    again = json.loads(anemone("evaluate", "heard.jsonl", "--by", "duration", "--json").out)
    assert again["all"] == first["all"] and len(again["slices"]["duration"]) == 3
    told = anemone("evaluate", "heard.jsonl", "--against", recogniser, said).out
    assert "no significant difference" in told and "3 as many" in told


def test_the_better_of_two_systems_is_named(anemone, tmp_path):
    rows = [{"id": str(i), "text": "one two three", "pred_text": "one too tree"} for i in range(40)]
    for name, better in (("a", 40), ("b", 0)):
        lines = [row | ({"pred_text": "one two three"} if i < better else {}) for i, row in enumerate(rows)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = anemone("evaluate", "a.jsonl", "--against", "b.jsonl").out
    assert "significantly fewer word errors" in told and "difference -66.7 %" in told
    assert "significantly more word errors" in anemone("evaluate", "b.jsonl", "--against", "a.jsonl").out
    found = json.loads(anemone("evaluate", "b.jsonl", "--json").out)
    assert found["confusions"][0] == {"word": "three", "taken_for": "tree", "times": 40}


def test_the_page_shows_mistakes_and_escapes_what_comes_from_data(anemone, tmp_path):
    row = {"text": "<b>one two", "pred_text": "<i>one two"}
    (tmp_path / "heard.jsonl").write_text(json.dumps(row) + "\n")
    assert anemone("evaluate", "heard.jsonl", "--html", "page.html").status == 0
    page = (tmp_path / "page.html").read_text()
    assert "<del>&lt;b&gt;one</del> <ins>&lt;i&gt;one</ins> two" in page
    assert "<b>" not in page and "<script" not in page


@pytest.mark.parametrize(
    ("lines", "words", "wrong"),
    [
        (['{"text": "a"}'], [], r"heard.jsonl:1: a line must have the strings `text` and `pred_text`"),
        (["nonsense"], [], r"heard.jsonl:1: "),
        ([], [], r"must hold lines of what a recogniser heard, but holds none"),
        (['{"text": "a", "pred_text": "a"}'], ["--against", "other.jsonl"], r"must have heard the same"),
        (['{"text": "a", "pred_text": "a"}'], ["--against", "no.jsonl"], r"`no.jsonl` must be a file of what"),
        (['{"id": "7", "text": "a", "pred_text": "a"}'], ["--against", "other.jsonl"], r"'7' has two"),
    ],
)
def test_what_cannot_be_compared_is_told(anemone, tmp_path, lines, words, wrong):
    (tmp_path / "heard.jsonl").write_text("".join(line + "\n" for line in lines))
    (tmp_path / "other.jsonl").write_text('{"id": "7", "text": "b", "pred_text": "b"}\n')
    ran = anemone("evaluate", "heard.jsonl", *words)
    assert ran.status == 2
    assert re.search(wrong, ran.err)


def test_a_classifier_is_not_compared(anemone, classifier, manifest):
    ran = anemone("evaluate", classifier, manifest, "--by", "speaker")
    assert ran.status == 2 and "`--by` is for recognisers" in ran.err
    assert "`DATA` must name manifests" in anemone("evaluate", classifier).err


def test_one_channel_is_heard_on_request(anemone, classifier, manifest, tmp_path):
    for path in tmp_path.glob("*.wav"):
        audio, rate = soundfile.read(path)
        soundfile.write(path, np.stack([0 * audio, audio], 1), rate)
    found = {}
    for channel in (None, 0, 1):
        words = [] if channel is None else ["--channel", channel]
        found[channel] = json.loads(anemone("evaluate", classifier, manifest, "--json", *words).out)["loss"]
        expected = evaluate(package.load(classifier), [manifest], channel=channel)["loss"]
        assert found[channel] == pytest.approx(expected)
    assert len(set(found.values())) == 3
    assert "`channel` must be 0 or more, but is -1" in anemone("evaluate", classifier, manifest, "--channel=-1").err


def test_a_missing_manifest_is_named(anemone, classifier, tmp_path):
    ran = anemone("evaluate", classifier, tmp_path / "no.jsonl")
    assert ran.status == 2 and "no.jsonl" in ran.err and ran.err.count("\n") == 1
