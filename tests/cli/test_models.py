"""`models` lists the registry."""

import hashlib
import json

import pytest
import yaml


@pytest.fixture
def registry(tmp_path, monkeypatch, classifier):
    content = classifier.read_bytes()
    entry = {
        "task": "classification",
        "language": ["en", "fr"],
        "licence": "apache-2.0",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "origin": "file",
        "location": str(classifier),
        "description": "knows nothing",
    }
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump({"tiny_words": entry}))
    monkeypatch.setenv("ANEMONE_REGISTRY", str(tmp_path / "registry.yaml"))
    return entry


def test_models_are_listed_with_what_the_registry_knows(anemone, registry):
    lines = anemone("models").out.splitlines()
    assert lines[0].split() == ["name", "task", "language", "licence", "size", "sha256", "origin", "description"]
    assert any("tiny_words" in line and "en fr" in line and registry["sha256"][:12] in line for line in lines[1:])
    rows = [json.loads(line) for line in anemone("models", "--json").out.splitlines()]
    assert {"name": "tiny_words", **registry} in rows


def test_a_model_is_used_by_name_and_a_wrong_name_gets_advice(anemone, registry, recordings):
    assert anemone("classify", "tiny_words", recordings[0]).status == 0
    ran = anemone("classify", "tiny_word", recordings[0])
    assert ran.status == 2 and "Did you mean `tiny_words`?" in ran.err
