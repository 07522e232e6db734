"""Tars of utterances: the bytes that went in, pieces cut without loss, the same at every run."""

import json
import tarfile

import numpy as np
import pytest
import soundfile

from anemone.data.engines import engine
from anemone.data.loader import SpeechDataConfig
from anemone.data.manifest import Index
from anemone.data.sharding import shard
from anemone.data.shards import bounds
from anemone.errors import ConfigError
from anemone.testing import speech


def tars(source, out, jobs=1, **size):
    return shard([source], out, **size, engine=engine("jobs", jobs), tell=max)


@pytest.fixture
def source(tmp_path):
    """Whole recordings of several kinds, and pieces."""
    audio = speech(1.0)
    kinds = [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("ogg", "VORBIS")]
    rows = []
    for i, (ending, coding) in enumerate(kinds):
        stereo = np.stack([audio, -audio / 2], axis=1)
        soundfile.write(tmp_path / f"r{i}.{ending}", stereo, 16_000, subtype=coding)
        row = {"audio_filepath": f"r{i}.{ending}", "text": coding, "take": i}
        rows += [row | {"duration": 1.0}, row | {"offset": 0.25, "duration": 0.5}]
    (tmp_path / "empty.wav").write_bytes(b"")
    rows += [{"audio_filepath": "empty.wav", "duration": 1, "text": ""}]
    rows += [{"audio_filepath": "r0.wav", "duration": 9, "text": "more than there is"}]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_whole_recordings_go_in_as_they_are_and_pieces_lose_nothing(source, tmp_path):
    report = tars(source, tmp_path / "out", shards=3)
    assert report.lines == 10 and [problem.line for problem in report.problems] == [11, 12]
    before, after = Index.read([source], target="text"), Index.read([report.manifest], target="text")
    read = SpeechDataConfig().shared()
    for row, old in zip(after.rows(range(10)), before.rows(range(10)), strict=True):
        path, _, place = row.audio.partition("?at=")
        at, size = map(int, place.split("&size="))
        with open(path, "rb") as file:
            file.seek(at)
            data = file.read(size)
        if old.duration == 1:
            with open(old.audio, "rb") as file:
                assert data == file.read()
        one, other = (read.piece(where.audio, where.offset, where.duration) for where in (old, row))
        lossless = row.target != "VORBIS" or old.duration == 1
        np.testing.assert_allclose(one, other, atol=0 if lossless else 2**-15)
        assert row.offset == 0 and row.id == old.id


def test_tars_are_the_same_bytes_whoever_writes_them(source, tmp_path):
    one, other = tars(source, tmp_path / "one", shards=4), tars(source, tmp_path / "other", jobs=2, shards=4)
    files = sorted(path.name for path in one.manifest.parent.iterdir())
    assert files == sorted(path.name for path in other.manifest.parent.iterdir())
    for name in files:
        assert (one.manifest.parent / name).read_bytes() == (other.manifest.parent / name).read_bytes(), name


def test_nemo_finds_each_recording_by_name_in_the_shard_it_says(source, tmp_path):
    out = tars(source, tmp_path / "out", shard_mb=0.1).manifest.parent
    rows = [json.loads(line) for line in (out / "tarred_audio_manifest.json").read_text().splitlines()]
    shards = sorted(out.glob("audio_*.tar"))
    assert len(shards) > 2 and {row["shard_id"] for row in rows} < set(
        range(len(shards))
    )  # the last has bad rows alone
    for i in range(len(shards)):
        with tarfile.open(out / f"audio_{i}.tar") as tar:
            assert tar.getnames() == [row["audio_filepath"] for row in rows if row["shard_id"] == i]
            for member in tar:
                assert soundfile.info(tar.extractfile(member)).frames > 0


def test_a_shard_keeps_to_its_size():
    sizes = np.array([1, 1, 1, 5, 1, 1]) * 2.0**20
    assert bounds(sizes, shard_mb=2.01) == [0, 2, 3, 4, 6]
    assert bounds(sizes, shards=4) == [0, 2, 3, 4, 6]
    for wrong in ({}, {"shards": 7}, {"shards": 2, "shard_mb": 1}, {"shard_mb": 0}):
        with pytest.raises(ConfigError, match="shard"):
            bounds(sizes, **wrong)
