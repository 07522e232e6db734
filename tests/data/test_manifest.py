"""The index: columns, problems, a cache that is never stale, and memory that stays flat."""

import json
import logging
import multiprocessing
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from anemone.cache import cache_folder
from anemone.data.manifest import Index
from anemone.data.problems import Problem
from anemone.errors import DataError


def rows(count: int, text: str = "t") -> list[dict]:
    return [{"audio_filepath": f"{i}.wav", "duration": 1 + i / 10, "text": f"{text}{i}"} for i in range(count)]


def test_rows_of_several_manifests_come_in_order(manifest, tmp_path):
    a, b = manifest(rows(2, "a"), "a.jsonl"), manifest(["", *rows(1, "b")], "b.jsonl")
    index = Index.read([a, b], target="text")
    assert len(index) == 3
    assert index.row(1) == (str(tmp_path / "1.wav"), 0.0, 1.1, "a1", str(a), 2, "1", None)
    assert index.row(2) == (str(tmp_path / "0.wav"), 0.0, 1.0, "b0", str(b), 2, "0", None)
    assert [row.target for row in index.rows([2, 0])] == ["b0", "a0"]
    assert index.durations.dtype == np.float32
    assert np.array_equal(index.durations, np.float32([1.0, 1.1, 1.0]))


def test_further_columns_are_kept(manifest):
    a = manifest([row | {"lang": "de", "n": 1} for row in rows(2)], "a.jsonl")
    b = manifest([row | {"n": "x"} for row in rows(1)], "b.jsonl")
    index = Index.read([a, b], target="text")
    assert sorted(index.columns) == ["lang", "n"]
    assert index.column("lang").to_pylist() == ["de", "de", None]
    assert index.column("n").to_pylist() == ["1", "1", "x"]
    with pytest.raises(DataError, match=r"`long` is not a further column of the manifests\. Did you mean `lang`\?"):
        index.column("long")


def test_an_utterance_is_named_by_its_id_else_by_recording_and_offset(manifest):
    row = rows(1)[0]
    path = manifest([row | {"id": "x-1"}, row, row | {"offset": 0.25}, row | {"id": 7}])
    index = Index.read([path], target="text")
    assert [row.id for row in index.rows([0, 1, 2, 3])] == index.ids([0, 1, 2, 3]) == ["x-1", "0", "0@250", "7"]


def test_labels_are_the_different_targets_sorted(manifest):
    path = manifest([row | {"label": label} for row, label in zip(rows(3), ("no", "yes", "no"), strict=True)])
    assert Index.read([path], target="label").labels == ["no", "yes"]


def test_a_bad_line_is_reported_with_manifest_line_and_cause(manifest, caplog):
    path = manifest([rows(1)[0], "{", {"duration": 1}, rows(2)[1]])
    with caplog.at_level(logging.WARNING, "anemone.data"):
        index = Index.read([path], target="text")
    assert len(index) == 2
    assert index.problems[1] == Problem(str(path), 3, "lacks `audio_filepath`")
    assert f"{path}:2: is not JSON" in caplog.text
    assert f"{path}:3: lacks `audio_filepath`" in caplog.text
    assert "left out 2 of 4 utterances" in caplog.text


def test_a_bad_line_is_reported_from_the_cache_too(manifest, caplog):
    path = manifest([rows(1)[0], "{"])
    first = Index.read([path], target="text")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "anemone.data"):
        second = Index.read([path], target="text")
    assert second.problems == first.problems
    assert "left out 1 of 2 utterances" in caplog.text


def test_many_bad_lines_are_counted(manifest, caplog):
    path = manifest([*rows(1), *["{"] * 100])
    with caplog.at_level(logging.WARNING, "anemone.data"):
        Index.read([path], target="text")
    assert len(caplog.records) == 21
    assert "left out 100 of 101 utterances" in caplog.text


def test_bad_lines_are_refused_by_setting(manifest):
    path = manifest([*rows(1), "{", "}"])
    pattern = r"manifest\.jsonl:2: is not JSON.*[^.] \(2 such utterances\)\. Mend .*`data\.skip_bad=true`"
    with pytest.raises(DataError, match=pattern):
        Index.read([path], target="text", skip_bad=False)


def test_a_manifest_with_nothing_to_use_is_refused(manifest):
    with pytest.raises(
        DataError, match=r"manifest\.jsonl` must hold utterances, but there is none to use\..*jsonl:1: is not"
    ):
        Index.read([manifest(["{"])], target="text")
    with pytest.raises(DataError, match="the list of manifests must name one or more"):
        Index.read([], target="text")


def test_a_missing_manifest_is_named_with_the_nearest(manifest):
    manifest(rows(1), "train.jsonl")
    path = manifest(rows(1), "dev.jsonl").with_name("tran.jsonl")
    with pytest.raises(DataError, match=r"tran\.jsonl` must be a manifest that exists\. Did you mean `.*train\.jsonl`"):
        Index.read([path], target="text")
    with pytest.raises(DataError, match=r"wrods\.jsonl` must be a manifest that exists\.$"):
        Index.read([path.with_name("wrods.jsonl")], target="text")


# --- the cache --------------------------------------------------------------------------------------------------------


def test_the_second_reading_maps_the_cached_index(manifest, monkeypatch):
    path = manifest(rows(3))
    first = Index.read([path], target="text")
    assert first.path is not None and first.path.parent == cache_folder() / "index"
    monkeypatch.setattr("anemone.data.indexing.build", None)
    second = Index.read([path], target="text")
    assert second.table.equals(first.table)
    assert second.fingerprint == first.fingerprint


def test_an_index_is_never_stale(manifest):
    """Even if a change leaves size and time as they were."""
    path = manifest(rows(2, "a"))
    stat = path.stat()
    first = Index.read([path], target="text")
    manifest(rows(2, "b"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    second = Index.read([path], target="text")
    assert second.row(0).target == "b0"
    assert second.fingerprint != first.fingerprint


def test_the_fingerprint_tells_content_and_order_not_place(manifest):
    a, b, c = manifest(rows(2), "a.jsonl"), manifest(rows(2), "b.jsonl"), manifest(rows(1), "c.jsonl")
    fingerprint = {
        name: Index.read(paths, target="text").fingerprint
        for name, paths in {"a": [a], "b": [b], "ac": [a, c], "ca": [c, a]}.items()
    }
    assert fingerprint["a"] == fingerprint["b"]
    assert len(set(fingerprint.values())) == 3


def test_equal_manifests_in_two_folders_have_their_own_recordings(manifest, tmp_path):
    (tmp_path / "other").mkdir()
    a, b = manifest(rows(1)), manifest(rows(1), "other/manifest.jsonl")
    assert Index.read([a], target="text").row(0).audio == str(tmp_path / "0.wav")
    assert Index.read([b], target="text").row(0).audio == str(tmp_path / "other" / "0.wav")


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0garbage", "half", "plain"])
def test_a_broken_cache_is_made_anew(manifest, content):
    path = manifest(rows(50))
    index = Index.read([path], target="text")
    whole = index.path.read_bytes()
    index.path.unlink()  # the index above maps the old file
    if content == "plain":  # an Arrow file of someone else
        with pa.ipc.new_file(os.fspath(index.path), pa.schema([("a", pa.int64())])):
            pass
    else:
        index.path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    assert Index.read([path], target="text").table.equals(index.table)


def test_without_a_place_for_the_cache_the_index_stays_in_memory(manifest, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "anemone.data"):
        index = Index.read([manifest(rows(2))], target="text")
    assert index.path is None and index.row(1).target == "t1"
    assert "cannot be kept" in caplog.text
    assert pickle.loads(pickle.dumps(index)).row(1) == index.row(1)


def read(path: Path, barrier, results) -> None:
    barrier.wait()
    results.put(len(Index.read([path], target="text")))


def test_two_processes_may_write_the_same_index_at_once(manifest):
    path = manifest(rows(2000))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=read, args=(path, barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [2000] * 4
    for process in processes:
        process.join()
    assert not list((cache_folder() / "index").glob("*.tmp"))


def test_another_process_opens_the_same_file(manifest):
    index = Index.read([manifest(rows(2))], target="text")
    message = pickle.dumps(index)
    assert len(message) < 500
    assert pickle.loads(message).row(1) == index.row(1)


def test_a_cached_index_costs_no_memory_for_its_rows(manifest):
    count = 50_000
    line = '{"audio_filepath": "folder/%d.wav", "duration": 2.5, "text": "some words that are read", "lang": "de"}'
    path = manifest([line % i for i in range(count)])
    Index.read([path], target="text")
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    index = Index.read([path], target="text")
    row = index.row(count - 1)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert row.target.startswith("some words") and row.line == count
    assert held < 4 * count + 500_000  # the durations and little else
    assert pa.total_allocated_bytes() - before < 500_000


def test_odd_lines_do_not_cost_the_good_ones_their_place(manifest):
    good = [json.dumps(row) for row in rows(20)]
    mixed = [text for pair in zip(good, ["{"] * 20, strict=True) for text in pair]
    index = Index.read([manifest(mixed)], target="text")
    assert [row.line for row in index.rows(range(20))] == list(range(1, 41, 2))


def test_sources_are_found_from_another_folder(manifest, tmp_path, monkeypatch):
    path = manifest(rows(2), "a.jsonl")
    monkeypatch.chdir(tmp_path)
    assert Index.read(["a.jsonl"], target="text").row(0).source == "a.jsonl"
    monkeypatch.chdir("/")
    assert Index.read([path], target="text").row(0).source == str(path)
