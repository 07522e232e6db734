"""Manifests out: lines byte by byte, recordings that are found from there, and never half a file."""

import gzip
import json
import os

import numpy as np
import pytest
import soundfile

from anemone.data import lines
from anemone.data.columns import opened
from anemone.data.lines import write_lines, write_parts
from anemone.errors import DataError
from anemone.testing import speech

LINES = [
    '{"audio_filepath": "clips/a.wav", "duration": 1.50, "text": "é \\u00e9", "n": 1e3}',
    '{ "text":"b","duration":2,"audio_filepath":"clips\\/b.wav" , "speaker":null}',
    '{"meta": {"audio_filepath": "no.wav", "a": [{"x": "}"}]}, "audio_filepath": "c.wav", "duration": 1, "text": "c"}',
    '{"audio_filepath": "/far/d.wav", "duration": 1, "text": "\\"audio_filepath\\": \\"x\\""}',
    '{"audio_filename": "e.wav", "audio_filepath": null, "duration": 1, "text": "e"}',
    '{"duration": 1, "audio_filepath": "~/f.wav", "text": "f", "_skipme": false}',
]


@pytest.fixture
def index(manifest):
    (manifest([]).parent / "in").mkdir()
    return opened([manifest([LINES[0], "", *LINES[1:]], "in/m.jsonl")])


def test_lines_are_copied_as_they_are_beside_their_source(index, tmp_path):
    out = write_lines(index, np.array([5, 0, 1, 2, 3, 4]), tmp_path / "in" / "out.jsonl")
    assert out.read_text().splitlines() == LINES


def test_only_the_path_changes_elsewhere(index, tmp_path):
    out = write_lines(index, np.arange(6), tmp_path / "new" / "out.jsonl").read_text().splitlines()
    prefix = f"{tmp_path}/in/"
    assert out == [
        LINES[0].replace("clips/a.wav", prefix + "clips/a.wav"),
        LINES[1].replace("clips\\/b.wav", prefix + "clips/b.wav"),
        LINES[2].replace('"c.wav"', f'"{prefix}c.wav"'),
        LINES[3],
        LINES[4].replace("e.wav", prefix + "e.wav"),
        LINES[5],
    ]
    above = write_lines(index, np.arange(1), tmp_path / "out.jsonl").read_text()
    assert json.loads(above)["audio_filepath"] == "in/clips/a.wav"


@pytest.mark.parametrize("place", ["in/out.jsonl", "new/deep/out.jsonl", "out.jsonl.gz"])
def test_what_is_written_reads_as_the_same_rows(index, tmp_path, place):
    rows = np.array([1, 2, 4])
    out = write_lines(index, rows, tmp_path / place)
    if out.suffix == ".gz":
        out = tmp_path / "plain.jsonl"
        out.write_bytes(gzip.decompress((tmp_path / place).read_bytes()))
    again = opened([out])
    same = [(row.audio, row.duration, row.target, row.id) for row in index.rows(rows)]
    assert [(row.audio, row.duration, row.target, row.id) for row in again.rows(np.arange(3))] == same


def test_a_byte_order_mark_and_returns_are_no_part_of_a_line(manifest, tmp_path):
    index = opened([manifest([b"\xef\xbb\xbf" + LINES[0].encode() + b"\r", LINES[5].encode() + b"\r"])])
    out = write_lines(index, np.arange(2), tmp_path / "out.jsonl")
    assert out.read_bytes() == "".join(f"{LINES[i]}\n" for i in (0, 5)).encode()


def test_rows_of_several_sources_come_from_each(manifest, tmp_path):
    first, second = manifest(LINES[:2], "a.jsonl"), manifest(LINES[2:4], "b.jsonl")
    out = write_lines(opened([first, second]), np.array([1, 3]), tmp_path / "out.jsonl")
    assert out.read_text().splitlines() == [LINES[1], LINES[3]]


def test_a_source_is_never_written_over(index, tmp_path):
    os.symlink(tmp_path / "in" / "m.jsonl", tmp_path / "link.jsonl")
    for name in ("in/m.jsonl", "link.jsonl", "in/../in/m.jsonl"):
        with pytest.raises(DataError, match="must not be one of the manifests"):
            write_lines(index, np.arange(1), tmp_path / name)


def test_a_mistake_leaves_what_was_there_and_nothing_else(index, tmp_path, monkeypatch):
    (tmp_path / "out.jsonl").write_text("old")
    monkeypatch.setattr(lines, "_spliced", lambda *_: 1 / 0)
    before = set(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError):
        write_parts(
            index, {str(tmp_path / "other.jsonl"): np.array([], int), str(tmp_path / "out.jsonl"): np.arange(2)}
        )
    assert set(tmp_path.iterdir()) == before
    assert (tmp_path / "out.jsonl").read_text() == "old"


def test_sets_of_other_formats_become_lines_of_what_is_known(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(1.0), 16_000)
    (tmp_path / "kaldi").mkdir()
    (tmp_path / "kaldi/wav.scp").write_text(f"r1 {tmp_path}/a.wav\n")
    (tmp_path / "kaldi/segments").write_text("u1 r1 0.25 0.75\nu2 r1 0.5 1.0\n")
    (tmp_path / "kaldi/text").write_text("u1 one\nu2 two\n")
    (tmp_path / "kaldi/utt2spk").write_text("u1 ann\nu2 bea\n")
    index = opened([tmp_path / "kaldi"])
    out = write_lines(index, np.array([1]), tmp_path / "out.jsonl")
    row = {"audio_filepath": "a.wav", "duration": 0.5, "offset": 0.5, "text": "two", "id": "u2", "speaker": "bea"}
    assert json.loads(out.read_text()) == row | {"recording": "r1"}
    assert opened([out]).row(0)[:4] == index.row(1)[:4]


def test_members_of_tars_become_places_in_them(tmp_path):
    import tarfile

    soundfile.write(tmp_path / "a.wav", speech(1.0), 16_000)
    with tarfile.open(tmp_path / "audio_0.tar", "w") as tar:
        tar.add(tmp_path / "a.wav", "a.wav")
    (tmp_path / "a.wav").unlink()  # else it is the recording
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "one", "shard_id": 0}
    (tmp_path / "tarred_audio_manifest.json").write_text(json.dumps(row) + "\n")
    index = opened([tmp_path / "tarred_audio_manifest.json"])
    again = opened([write_lines(index, np.array([0]), tmp_path / "new" / "out.jsonl")])
    assert again.row(0)[:4] == index.row(0)[:4] and "?at=" in again.row(0).audio


def test_texts_in_files_of_their_own_are_found_too(manifest, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/t.txt").write_text("said")
    index = opened([manifest(['{"text_filepath": "t.txt", "audio_filepath": "é.wav", "duration": 1}'], "in/m.jsonl")])
    out = write_lines(index, np.array([0]), tmp_path / "new" / "out.jsonl")
    home = f"{tmp_path}/in"
    assert out.read_text() == f'{{"text_filepath": "{home}/t.txt", "audio_filepath": "{home}/é.wav", "duration": 1}}\n'
    assert opened([out]).row(0).target == "said"
