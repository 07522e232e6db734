"""Index.read of whatever is no plain manifest: rows, ids, sets, channels, problems, and what makes it stale."""

import gzip
import json
import os
import shutil
from pathlib import Path

import fsspec
import pytest
import soundfile

from anemone.data.audio import Recordings
from anemone.data.manifest import Index
from anemone.data.sources import SOURCES, Utterance, source
from anemone.errors import DataError
from anemone.testing import speech

TARRED = Path(__file__).parents[1] / "golden/parity/tarred"
FOLDERS = {"tarred", "kaldi", "shar", "audiofolder", "librispeech"}
ENDINGS = {"jsonl": ".jsonl", "lhotse": ".jsonl", "csv": ".csv", "parquet": ".parquet"}


@pytest.fixture
def ours(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(1.0), 16_000)
    whole = Utterance("u-1", str(tmp_path / "a.wav"), 0.0, None, "eins", "x", "ann", None, {})
    return [whole, whole._replace(id="u-2", offset=0.25, duration=0.5, text="zwei")]


@pytest.mark.parametrize("kind", list(SOURCES))
def test_every_format_is_an_index(tmp_path, ours, kind):
    path = tmp_path / f"set{ENDINGS.get(kind, '')}"
    assert not source(kind).write(ours, path)
    index = Index.read([path], target="text")
    assert index.path is not None and index.problems == []
    rows = index.rows([0, 1])
    assert [(row.id, row.target) for row in rows] == [("u-1", "eins"), ("u-2", "zwei")]
    assert index.durations.tolist() == [1.0, 0.5] and index.column("speaker").to_pylist() == ["ann", "ann"]
    pieces = [Recordings(16_000).piece(row.audio, row.offset, row.duration) for row in rows]
    assert (pieces[0][4000:12000] == pieces[1]).all()
    again = Index.read([path], target="text")
    assert again.path == index.path and again.table.equals(index.table)


def test_patterns_are_one_set_of_several_files(tmp_path, manifest):
    row = {"audio_filepath": "a.wav", "duration": 1.0}
    for i in range(3):
        manifest([row | {"text": f"{i}{j}"} for j in range(i + 1)], f"m_{i}.jsonl")
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress(json.dumps(row | {"text": "z"}).encode()))
    index = Index.read([tmp_path / "m_{0..2}.jsonl", tmp_path / "z.jsonl.gz"], target="text")
    assert [row.target for row in index.rows(range(7))] == ["00", "10", "11", "20", "21", "22", "z"]
    assert index.sets.tolist() == [0] * 6 + [1]
    assert index.row(3).source == str(tmp_path / "m_2.jsonl") and index.row(3).line == 1
    with pytest.raises(DataError, match=r"m_3\.jsonl` must be a manifest that exists"):
        Index.read([tmp_path / "m_{0..3}.jsonl"], target="text")


def test_a_tarred_set_is_read_at_random(tmp_path):
    shutil.copytree(TARRED, tmp_path / "set")
    index = Index.read([tmp_path / "set"], target="text")
    row = index.row(4)
    assert row.id == "0" and row.audio.startswith(f"{tmp_path}/set/audio_1.tar?at=")
    assert len(Recordings(16_000).piece(row.audio, row.offset, row.duration)) == round(2.99 * 16_000)
    os.utime(tmp_path / "set/audio_1.tar", (1, 1))
    again = Index.read([tmp_path / "set"], target="text")
    assert again.path != index.path and again.fingerprint == index.fingerprint


def test_rows_that_cannot_be_used_are_problems(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(0.5), 16_000)
    (tmp_path / "a.csv").write_text(
        "path,text,duration\na.wav,ja,\nnone.wav,nein,\na.wav,ja,-1\na.wav\na.wav,ja,0.25\n"
    )
    index = Index.read([tmp_path / "a.csv"], target="text")
    assert index.durations.tolist() == [0.5, 0.25]
    causes = sorted(str(problem) for problem in index.problems)
    assert len(causes) == 3 and "none.wav` must be an audio file, but does not exist" in causes[0]
    assert "a.csv:4: `duration` must be above 0 seconds" in causes[1] and "a.csv:5: must have 3 cells" in causes[2]
    with pytest.raises(DataError, match="must hold utterances"):
        Index.read([tmp_path / "a.csv"], target="label")


def test_a_channel_of_a_row_is_its_own(tmp_path, ours):
    source("csv").write([ours[0], ours[1]._replace(channel=0)], tmp_path / "a.csv")
    assert [row.channel for row in Index.read([tmp_path / "a.csv"], target="text").rows([1, 0])] == [0, None]


def test_blocks_of_lines_give_what_the_whole_gives(tmp_path, manifest, monkeypatch):
    """Types that differ from block to block, odd lines, digits that a double loses, lines longer than a block."""
    values = [1, 2.5, "x", None, 2**53 + 1, True, "y" * 900]
    rows = [
        {
            "audio_filepath": f"{i}.wav",
            "duration": 1 + i % 2 / 2,
            "text": f"{i}",
            "k": values[i % 7],
            "n": [i, 0.5][i % 2],
        }
        for i in range(60)
    ] + ["{", "", {"duration": 1}]
    path = manifest([row | {"b": 2**53 + i} if i < 30 else row | {"b": 0.5} for i, row in enumerate(rows[:60])] + rows)
    whole = Index.read([path], target="text")
    monkeypatch.setattr("anemone.data.indexing.BLOCK", 500)
    monkeypatch.setattr("anemone.data.sources.lines.PIECE", 300)
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path / "other"))
    pieces = Index.read([path], target="text")
    assert pieces.problems == whole.problems and [problem.line for problem in whole.problems] == [121, 123]
    for name in whole.table.column_names:
        assert pieces.table[name].to_pylist() == whole.table[name].to_pylist(), name
    assert pieces.fingerprint == whole.fingerprint


def test_texts_in_files_are_read_and_never_stale(tmp_path, manifest):
    (tmp_path / "a.txt").write_text("eins\n")
    row = {"audio_filepath": "a.wav", "duration": 1.0}
    rows = [row | {"text_filepath": "a.txt"}, row | {"text": "da"}, row | {"text_filepath": "none.txt"}, row]
    path = manifest(rows)
    index = Index.read([path], target="text")
    assert [row.target for row in index.rows([0, 1])] == ["eins", "da"]
    assert [problem.line for problem in index.problems] == [3, 4]
    assert "`text_filepath` must be a text file that exists" in index.problems[0].cause
    (tmp_path / "a.txt").write_text("zwei drei\n")
    assert Index.read([path], target="text").row(0).target == "zwei drei"


def test_manifests_at_urls_are_read_as_they_are_now(tmp_path):
    files = fsspec.filesystem("memory")
    soundfile.write(tmp_path / "a.wav", speech(0.5), 16_000)
    files.pipe("/set/a.wav", (tmp_path / "a.wav").read_bytes())
    for text in ("eins", "zwei"):
        row = {"audio_filepath": "a.wav", "duration": 0.5, "text": text}
        files.pipe("/set/m.jsonl", json.dumps(row).encode())
        found = Index.read(["memory://set/m.jsonl"], target="text").row(0)
        assert found.target == text and found.audio == "memory://set/a.wav"
        assert len(Recordings(16_000).piece(found.audio)) == 8000
    other = {"audio_filepath": "memory://set/a.wav", "duration": 0.5, "text": "x"}
    (tmp_path / "here.jsonl").write_text(json.dumps(other))
    assert Index.read([tmp_path / "here.jsonl"], target="text").row(0).audio == "memory://set/a.wav"
