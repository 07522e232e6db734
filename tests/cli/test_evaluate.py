"""`evaluate` prints what `anemone.training.evaluation.evaluate` computes."""

import json

import pytest

import anemone as package
from anemone.training.evaluation import evaluate


def test_metrics_are_printed_as_a_table_and_as_json(anemone, classifier, manifest):
    expected = evaluate(package.load(classifier), [manifest])
    ran = anemone("evaluate", classifier, manifest, "--json")
    assert ran.status == 0
    row = json.loads(ran.out)
    assert (row.pop("model"), row.pop("data")) == (str(classifier), [str(manifest)])
    assert row == pytest.approx(expected)
    lines = anemone("evaluate", classifier, manifest, "--batch-size", 1).out.splitlines()
    assert {line.split()[0] for line in lines[1:]} == set(expected)


def test_a_missing_manifest_is_named(anemone, classifier, tmp_path):
    ran = anemone("evaluate", classifier, tmp_path / "no.jsonl")
    assert ran.status == 2 and "no.jsonl" in ran.err and ran.err.count("\n") == 1
