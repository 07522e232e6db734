"""`evaluate` prints what `anemone.training.evaluation.evaluate` computes."""

import json

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


def test_a_recogniser_has_metrics_alone(anemone, recogniser, manifest):
    manifest.write_text(manifest.read_text().replace('"label"', '"text"'))
    assert "confusions" not in json.loads(anemone("evaluate", recogniser, manifest, "--json").out)
    assert "" not in anemone("evaluate", recogniser, manifest).out.splitlines()


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
