"""`data stats`, `validate`, `filter` and `split`: what they print, write and return."""

import json

import pytest
import soundfile

from anemone.testing import speech


@pytest.fixture
def texts(tmp_path):
    """Six utterances of three speakers; the recording of the last is missing."""
    for i in range(5):
        soundfile.write(tmp_path / f"{i}.wav", speech(0.5 + 0.1 * i, seed=i), 16_000)
    rows = [
        {"audio_filepath": f"{i}.wav", "duration": 0.5 + 0.1 * i, "text": f"word {i}", "speaker": "abc"[i % 3]}
        for i in range(6)
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_stats_are_told_to_people_and_programs(anemone, texts, manifest):
    ran = anemone("data", "stats", texts)
    assert ran.status == 0, ran.err
    assert "6 rows" in ran.out and "16000 (5)" in ran.out and "12 words, 7 different, 6 once" in ran.out
    ran = anemone("data", "stats", texts, manifest, "--each", "--json", "--headers=2")
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert [item["rows"] for item in found] == [6, 3]
    assert found[0]["speakers"]["different"] == 3 and found[1]["labels"]["different"] == 3
    assert found[0]["recordings"]["opened"] == 2


def test_validation_fails_writes_and_is_told(anemone, texts, tmp_path):
    ran = anemone("data", "validate", texts, "--html=r.html", "--findings=f.jsonl", "--write=good.jsonl")
    assert ran.status == 1, ran.err
    assert "error missing-file: 1 rows" in ran.out and "texts.jsonl:6" in ran.out and "1 errors, 0 warnings" in ran.out
    assert "missing-file" in (tmp_path / "r.html").read_text()
    assert [json.loads(line)["line"] for line in (tmp_path / "f.jsonl").read_text().splitlines()] == [6]
    assert (tmp_path / "good.jsonl").read_text().splitlines() == texts.read_text().splitlines()[:5]
    assert anemone("data", "validate", texts, "--fail-on=never").status == 0
    assert anemone("data", "validate", "good.jsonl", "--fail-on=info").status == 0
    ran = anemone("data", "validate", "train=good.jsonl", f"test={texts}", "--no-audio", "--json", "--write=parts")
    assert ran.status == 1 and set(json.loads(ran.out)["sets"]) == {"train", "test"}
    assert (tmp_path / "parts/test.jsonl").exists()
    (tmp_path / "a_0.tar").write_bytes(b"")
    (tmp_path / "tars.json").write_text('{"audio_filepath": "a.wav", "duration": 1.0, "text": "a", "shard_id": 0}\n')
    assert "must be an uncompressed tar" in anemone("data", "validate", "tars.json?tars=a_0.tar").err
    assert anemone("data", "validate", "--rules").out.count("\n") > 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["validate"], "must be given a manifest"),
        (["validate", "a=texts.jsonl", "a=texts.jsonl"], "write NAME=SOURCE"),
        (["validate", "a=texts.jsonl", "b=texts.jsonl", "--write=x.jsonl"], "must be a folder for 2 sets"),
        (["validate", "texts.jsonl", "--ignore=cliped"], "Did you mean `clipped`"),
        (["validate", "texts.jsonl", "--write=texts.jsonl", "--no-audio"], "must not be one of the manifests"),
        (["filter", "texts.jsonl", "duration >"], "cannot be read"),
        (["filter", "texts.jsonl", "true", "--seconds=0"], "above 0"),
        (["filter", "texts.jsonl", "true", "texts.jsonl"], "must not be one of the manifests"),
        (["split", "texts.jsonl", "texts.jsonl"], "must be a folder"),
        (["split", "texts.jsonl", "out", "--parts=a=0.5"], "shares whose sum is 1"),
        (["split", "texts.jsonl", "out", "--parts=../a=1"], "must name each part once"),
        (["split", "texts.jsonl", "out", "--by=speakr"], "Did you mean `speaker`"),
        (["stats", "texts.jsonl", "--headers=-1"], "0 or more"),
        (["stats", "nothing.jsonl"], "nothing.jsonl"),
    ],
)
def test_mistakes_are_one_line(anemone, texts, words, message):
    ran = anemone("data", *words)
    assert ran.status == 2 and message in ran.err and ran.err.count("\n") == 1


def test_rows_are_filtered(anemone, texts, tmp_path):
    lines = texts.read_text().splitlines()
    ran = anemone("data", "filter", texts, "duration < 0.65 and text like 'word%'", "short.jsonl")
    assert ran.status == 0 and ran.out.startswith("2 of 6 rows")
    assert (tmp_path / "short.jsonl").read_text().splitlines() == lines[:2]
    assert anemone("data", "filter", texts, "duration < 0.65", "-o", "long.jsonl", "--invert").status == 0
    assert (tmp_path / "long.jsonl").read_text().splitlines() == lines[2:]
    assert anemone("data", "filter", texts, "speaker = 'c'").out == "2 of 6 rows, 0.00 of 0.00 h\n"


def test_a_set_is_split_by_speaker(anemone, texts, tmp_path):
    ran = anemone("data", "split", texts, "out", "--parts=train=0.67,test=0.33", "--exact")
    assert ran.status == 0, ran.err
    parts = [(tmp_path / f"out/{name}.jsonl").read_text().splitlines() for name in ("train", "test")]
    speakers = [{json.loads(line)["speaker"] for line in part} for part in parts]
    assert [len(part) for part in parts] == [4, 2] and not speakers[0] & speakers[1]
    assert all(json.loads(line)["audio_filepath"].startswith(str(tmp_path)) for part in parts for line in part)
    assert "speaker" in ran.out.splitlines()[0]
