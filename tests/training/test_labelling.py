"""Pseudo-labels: texts as `transcribe` gives them, columns kept, bad lines told, interrupted work goes on."""

import json

import pytest
import soundfile
import torch

from anemone import tasks
from anemone.cli import main
from anemone.errors import ConfigError, DataError
from anemone.testing import speech, tiny
from anemone.training import labelling
from anemone.training.labelling import label


@pytest.fixture
def task():
    made = tiny("recognition")
    with torch.no_grad():
        made.network.head.linear.weight.mul_(4)
    return made


@pytest.fixture
def manifest(tmp_path):
    """Nine recordings, of which two cannot be used, and a blank line."""
    lines = []
    for i in range(9):
        soundfile.write(tmp_path / f"{i}.wav", speech(0.3 + 0.05 * i, seed=i), 16_000)
        lines.append(
            json.dumps(
                {"audio_filepath": f"{i}.wav", "speaker": f"s{i}", "text": "old"}
                if i % 2
                else {"audio_filepath": f"{i}.wav", "id": i}
            )
        )
    (tmp_path / "4.wav").write_bytes(b"no audio")
    lines.insert(2, "")
    lines[7] = '{"speaker": "nobody"}'
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "in.jsonl"


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_get_what_is_heard_and_keep_their_columns(task, manifest, tmp_path):
    found = label(task, manifest, tmp_path / "sub" / "out.jsonl", batch_size=2)
    made = rows(tmp_path / "sub" / "out.jsonl")
    assert (found.rows, found.kept + found.unsure, found.bad) == (9, 7, 2) and found.kept == len(made) > 4
    for row in made:
        assert row["text"] == task.transcribe([row["audio_filepath"]])[0].text
        assert 0 < row["confidence"] <= 1 and row["score"] < 0
        assert row.get("speaker") or "id" in row
        assert ("text_before" in row) == ("speaker" in row)
    assert not (tmp_path / "sub" / "out.jsonl.part").exists()


def test_lines_of_which_the_model_is_unsure_are_left_out(task, manifest, tmp_path):
    label(task, manifest, tmp_path / "all.jsonl")
    sure = sorted(row["confidence"] for row in rows(tmp_path / "all.jsonl"))
    found = label(task, manifest, tmp_path / "some.jsonl", min_confidence=sure[2])
    assert [row["confidence"] >= sure[2] for row in rows(tmp_path / "some.jsonl")] == [True] * (len(sure) - 2)
    assert found.unsure >= 2


def test_interrupted_work_goes_on_to_the_same_bytes(task, manifest, tmp_path, monkeypatch):
    label(task, manifest, tmp_path / "whole.jsonl")
    heard, seen = labelling._heard, []

    def spy(task, lines, folder, batch_size):
        seen.append(len(lines))
        yield from heard(task, lines[:3], folder, 1)
        if len(lines) > 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(labelling, "_heard", spy)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            label(task, manifest, tmp_path / "part.jsonl")
        with (tmp_path / "part.jsonl.part").open("a") as file:
            file.write('{"text": "torn')
    monkeypatch.setattr(labelling, "_heard", heard)
    label(task, manifest, tmp_path / "part.jsonl")
    assert seen == [10, 7, 4]
    assert (tmp_path / "part.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_only_a_newline_ends_a_line(task, tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(0.6), 16_000)
    line = {"audio_filepath": "a.wav", "note": "one\u2028two\x85three"}
    (tmp_path / "in.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n", "utf-8")
    assert label(task, tmp_path / "in.jsonl", tmp_path / "out.jsonl")[:2] == (1, 1)
    made = json.loads((tmp_path / "out.jsonl").read_text("utf-8"))
    assert made["note"] == line["note"]


def test_notes_of_another_model_do_not_count(task, manifest, tmp_path):
    (tmp_path / "out.jsonl.part").write_text('{"source": "other"}\n{"text": "wrong", "score": -1, "confidence": 1.0}\n')
    label(task, manifest, tmp_path / "out.jsonl")
    assert all(row["text"] != "wrong" for row in rows(tmp_path / "out.jsonl"))


def test_the_command_says_what_came_of_it(task, manifest, tmp_path, capsys):
    tasks.save(task, tmp_path / "model.anemone")
    words = ["data", "label", str(tmp_path / "model.anemone"), str(manifest), str(tmp_path / "out.jsonl")]
    assert main(words) == 1
    assert "of 9 lines" in capsys.readouterr().out
    assert main([*words[:3], str(tmp_path / "gone.jsonl"), str(tmp_path / "out.jsonl")]) == 2


def test_what_cannot_be_done_is_refused(task, manifest, tmp_path):
    with pytest.raises(ConfigError, match="`model` must be one for recognition"):
        label(tiny("classification"), manifest, tmp_path / "out.jsonl")
    with pytest.raises(ConfigError, match="`out` must be another file than the source"):
        label(task, manifest, manifest)
    (tmp_path / "bad.jsonl").write_text('{"audio_filepath": "gone.wav"}\n')
    with pytest.raises(DataError, match="has no line that can be used"):
        label(task, tmp_path / "bad.jsonl", tmp_path / "out.jsonl")
