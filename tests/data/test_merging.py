"""Several sets as one: each utterance once, each id once, recordings found from the new place."""

import json

import pytest

from anemone.data.manifest import Index
from anemone.data.merging import merge
from anemone.errors import DataError


def test_sets_become_one_and_clashes_are_said_and_settled(manifest, tmp_path):
    piece = {"audio_filepath": "a.wav", "duration": 1.0}
    one = manifest([piece | {"id": "x", "text": "one"}, piece | {"id": "y", "text": "two", "offset": 2.5}], "one.jsonl")
    (tmp_path / "b").mkdir()
    rows = [piece | {"id": "x", "text": "three", "room": "hall"}, piece | {"id": "x", "text": "one"}, "{oops"]
    other = manifest(rows, "b/other.jsonl")
    again = manifest([piece | {"id": "z", "text": "one"}], "again.jsonl")
    merged = merge([one, other, again], tmp_path / "out" / "all.jsonl")
    assert list(merged.rows.values()) == [2, 2, 1] and merged.lines == 4
    assert merged.twice == ["z"] and merged.renamed == [("x", "x-2"), ("x", "x-3")]
    assert [(problem.file, problem.line) for problem in merged.problems] == [(str(other), 3)]
    index = Index.read([tmp_path / "out" / "all.jsonl"], target="text")
    assert [row.id for row in index.rows(range(4))] == ["x", "y", "x-2", "x-3"]
    assert [row.audio for row in index.rows([1, 2])] == [str(tmp_path / "a.wav"), str(tmp_path / "b" / "a.wav")]
    assert index.row(1).offset == 2.5 and index.column("room").to_pylist()[2] == "hall"


def test_labels_and_texts_stay_what_they_are(manifest, tmp_path):
    one = manifest([{"audio_filepath": "a.wav", "duration": 1, "text": "hello"}], "one.jsonl")
    other = manifest([{"audio_filepath": "b.wav", "duration": 1, "label": "yes"}], "other.jsonl")
    merge([one, other], tmp_path / "all.jsonl")
    first, second = map(json.loads, (tmp_path / "all.jsonl").read_text().splitlines())
    assert (first["text"], second["label"]) == ("hello", "yes")
    assert (first["audio_filepath"], second["audio_filepath"]) == ("a.wav", "b.wav")


def test_a_set_is_not_merged_into_itself(manifest):
    path = manifest([{"audio_filepath": "a.wav", "duration": 1, "text": "hello"}])
    with pytest.raises(DataError, match="must be another file"):
        merge([path], path)
    assert path.read_text()
