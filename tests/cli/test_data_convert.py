"""`data convert` writes what can be read, says what cannot, and names the mistakes in what was asked for."""

import json

import pytest
import soundfile

from anemone.testing import speech


@pytest.fixture
def manifest(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(0.5), 16_000)
    rows = [{"audio_filepath": "a.wav", "duration": 0.5, "text": "ja"}, {"audio_filepath": "a.wav", "duration": 0}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    return tmp_path / "m.jsonl"


def test_good_rows_survive_bad_ones(anemone, manifest, tmp_path):
    ran = anemone("data", "convert", manifest, tmp_path / "set", "--to", "tarred")
    assert ran.status == 1 and ran.out == f"{tmp_path}/set: 1 utterances\n"
    assert f"{manifest}:2: `duration` must be above 0 seconds" in ran.err and f"{manifest}:3: is not JSON" in ran.err
    assert ran.err.endswith("left out 2 of 3 utterances\n")
    ran = anemone("data", "convert", tmp_path / "set", tmp_path / "cuts.jsonl.gz")
    assert (ran.status, ran.err) == (0, "")
    ran = anemone("data", "convert", tmp_path / "cuts.jsonl.gz", tmp_path / "set", tmp_path / "all.csv")
    assert ran.status == 0 and ran.out.endswith("all.csv: 2 utterances\n")


def test_commands_run_only_where_they_are_trusted(anemone, manifest, tmp_path):
    (tmp_path / "kaldi").mkdir()
    (tmp_path / "kaldi/wav.scp").write_text(f"u touch {tmp_path}/ran; cat {tmp_path}/a.wav |\n")
    (tmp_path / "kaldi/text").write_text("u ja\n")
    (tmp_path / "kaldi/utt2spk").write_text("u u\n")
    ran = anemone("data", "convert", tmp_path / "kaldi", tmp_path / "out.jsonl")
    assert ran.status == 1 and "wav.scp:1" in ran.err and "--trust-commands" in ran.err
    assert not (tmp_path / "ran").exists()
    ran = anemone("data", "convert", tmp_path / "kaldi", tmp_path / "out.jsonl", "--trust-commands")
    assert ran.status == 0 and (tmp_path / "ran").exists()


def test_mistakes_are_named(anemone, manifest, tmp_path):
    ran = anemone("data", "convert", manifest, tmp_path / "out")
    assert ran.status == 2 and "does not say in which format it shall be" in ran.err and ran.err.count("\n") == 1
    ran = anemone("data", "convert", tmp_path / "none.jsonl", tmp_path / "out.csv")
    assert ran.status == 2 and "none.jsonl` must be a data set that exists" in ran.err
    ran = anemone("data", "convert", "--help")
    assert ran.status == 0 and "librispeech" in ran.out
