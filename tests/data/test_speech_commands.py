"""Google Speech Commands: a folder of the same shape becomes manifests."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from anemone.data.audio import Recordings, load_audio
from anemone.data.manifest import Index
from anemone.data.speech_commands import TEN, WORDS, prepare
from anemone.errors import DataError

RATE = 16_000
TAKES = 10  # of a word: six for training, two to validate, two to test
OTHERS = ("bed", "marvin", "backward", "follow", "forward", "learn", "visual")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten recorded takes of each of 17 words, filed under names of Speech Commands; and two recordings of noise."""
    root = tmp_path_factory.mktemp("speech_commands")
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"validation": [], "testing": []}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANEMONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        index = Index.read(["assets/telephone_words/train.jsonl"], target="label")
    takes: dict[str, list[int]] = {}
    for i, row in enumerate(index.rows(range(len(index)))):
        takes.setdefault(row.target, []).append(i)
    frequent = [rows for rows in takes.values() if len(rows) >= TAKES]
    recordings = Recordings(RATE, cache_mb=256)
    for word, rows in zip((*TEN, *OTHERS), frequent, strict=False):
        (root / word).mkdir()
        for take in range(TAKES):
            name = f"{word}/{take // 2:08x}_nohash_{take % 2}.wav"
            row = index.row(rows[take])
            soundfile.write(root / name, recordings.piece(row.audio, row.offset, row.duration), RATE)
            if take >= 6:
                lists["validation" if take < 8 else "testing"].append(name)
    for name, entries in lists.items():
        (root / f"{name}_list.txt").write_text("\n".join(entries) + "\n")
    (root / "_background_noise_").mkdir()
    for i in range(2):
        soundfile.write(root / "_background_noise_" / f"{i}.wav", rng.normal(0, 0.1, (20 + 10 * i) * RATE), RATE)
    (root / "_background_noise_" / "README.md").write_text("noise")
    return root


def read(paths: dict[str, Path]) -> dict[str, list[dict]]:
    return {split: [json.loads(line) for line in path.read_text().splitlines()] for split, path in paths.items()}


def test_all_words_by_the_official_lists(folder, tmp_path):
    paths = prepare(folder, tmp_path / "out")
    assert [path.name for path in paths.values()] == ["train.jsonl", "validation.jsonl", "test.jsonl"]
    splits = read(paths)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 102, "validation": 34, "test": 34}
    assert {row["label"] for rows in splits.values() for row in rows} == {*TEN, *OTHERS}
    listed = set((folder / "testing_list.txt").read_text().split())
    assert {"/".join(Path(row["audio_filepath"]).parts[-2:]) for row in splits["test"]} == listed
    speakers = {split: {row["speaker"] for row in rows} for split, rows in splits.items()}
    assert not speakers["train"] & speakers["test"] and not speakers["train"] & speakers["validation"]
    assert splits["train"][0]["duration"] == soundfile.info(splits["train"][0]["audio_filepath"]).duration


def test_twelve_classes(folder, tmp_path):
    splits = read(prepare(folder, tmp_path, classes="12"))
    for split, each in {"train": 6, "validation": 2, "test": 2}.items():
        counts = {
            label: sum(row["label"] == label for row in splits[split]) for label in (*TEN, "_unknown_", "_silence_")
        }
        assert counts == dict.fromkeys(counts, each)
        assert sum(counts.values()) == len(splits[split])
    unknown = {Path(row["audio_filepath"]).parent.name for row in splits["train"] if row["label"] == "_unknown_"}
    assert unknown <= set(OTHERS) and len(unknown) > 1


def test_silence_is_cut_from_noise_and_no_second_is_in_two_splits(folder, tmp_path):
    spans = {}
    for split, rows in read(prepare(folder, tmp_path, classes="12")).items():
        silence = [row for row in rows if row["label"] == "_silence_"]
        assert {Path(row["audio_filepath"]).name for row in silence} == {"0.wav", "1.wav"}
        for row in silence:
            assert len(load_audio(row["audio_filepath"], offset=row["offset"], duration=row["duration"])) == RATE
        spans[split] = [(row["audio_filepath"], row["offset"], row["offset"] + row["duration"]) for row in silence]
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert all(p != q or end <= start + 1e-6 for p, _, end in spans[a] for q, start, _ in spans[b])


def test_preparing_twice_gives_the_same(folder, tmp_path):
    for classes in ("all", "12"):
        first = [p.read_bytes() for p in prepare(folder, tmp_path / "a", classes=classes).values()]
        second = [p.read_bytes() for p in prepare(folder, tmp_path / "b", classes=classes).values()]
        assert first == second


def test_the_manifests_load(folder, tmp_path):
    paths = prepare(folder, tmp_path, classes="12")
    index = Index.read([paths["train"]], target="label")
    assert index.labels == sorted([*TEN, "_unknown_", "_silence_"])
    assert not index.problems
    assert index.columns == ["speaker"]


def test_manifests_above_the_recordings_have_relative_paths(folder):
    paths = prepare(folder, folder)
    assert read(paths)["train"][0]["audio_filepath"] == "backward/00000000_nohash_0.wav"
    assert Index.read([paths["train"]], target="label").row(0).audio == str(folder / "backward/00000000_nohash_0.wav")
    for path in paths.values():
        path.unlink()


def test_the_word_lists_are_the_published_ones():
    assert {version: len(words) for version, words in WORDS.items()} == {"v1": 30, "v2": 35}
    assert all(len(set(words)) == len(words) for words in WORDS.values())


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_version_insists_on_its_words(folder, tmp_path, version):
    with pytest.raises(DataError, match=r"must hold a folder for each word, but lacks bird, cat, dog, eight"):
        prepare(folder, tmp_path, version=version)


def test_another_layout_is_refused(tmp_path, folder):
    with pytest.raises(DataError, match=r"lacks validation_list\.txt, testing_list\.txt.*a folder for each word"):
        prepare(tmp_path, tmp_path)
    for name in ("validation_list.txt", "testing_list.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(DataError, match="lacks all of them"):
        prepare(tmp_path, tmp_path)
    with pytest.raises(DataError, match="lacks _background_noise_"):
        prepare(tmp_path, tmp_path, classes="12")
    (tmp_path / "yes").mkdir()
    with pytest.raises(DataError, match="has none for train, validation, test"):
        prepare(tmp_path, tmp_path)


def test_a_broken_or_absent_recording_is_reported(folder, tmp_path, caplog, x):
    (tmp_path / "yes").mkdir()
    for take in range(3):
        soundfile.write(tmp_path / f"yes/a_nohash_{take}.wav", x, RATE)
    (tmp_path / "yes/b_nohash_0.wav").write_bytes(b"")
    (tmp_path / "validation_list.txt").write_text("yes/a_nohash_1.wav\nyes/gone_nohash_0.wav\n")
    (tmp_path / "testing_list.txt").write_text("yes/a_nohash_2.wav\n")
    with caplog.at_level(logging.WARNING, "anemone.data"):
        splits = read(prepare(tmp_path, tmp_path))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 1, "validation": 1, "test": 1}
    assert "b_nohash_0.wav is left out: Format not recognised" in caplog.text
    assert "names 1 recordings that do not exist, as yes/gone_nohash_0.wav" in caplog.text
