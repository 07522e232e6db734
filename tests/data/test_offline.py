"""Augmentation on disk: the samples of training, whatever kills it, and manifests that say where they come from."""

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from anemone.data.augmentation import Recipe
from anemone.data.engines import engine
from anemone.data.loader import Loader, SpeechDataConfig
from anemone.data.manifest import Index
from anemone.data.offline import OfflineConfig, augment_offline, pcm16
from anemone.data.sharding import shard
from anemone.errors import ConfigError, DataError
from anemone.testing import speech

STEPS = [
    {"speed": {"factors": [0.9, 1.1], "p": 0.7}},
    {"gain": {"min_db": -6, "max_db": 12, "p": 0.5}},
    {"white_noise": {"min_db": -50, "max_db": -30, "p": 0.5}},
]
RECIPE = Recipe.parse(STEPS)


@pytest.fixture
def source(tmp_path):
    return words(tmp_path, 40)


def words(folder, count):
    """A manifest of pieces of one recording, one of which does not exist, and of one of another."""
    soundfile.write(folder / "long.wav", speech(20.0), 16_000)
    soundfile.write(folder / "short.flac", speech(0.5, rate=8000, seed=3), 8000)
    rows = [
        {"audio_filepath": "long.wav", "offset": i % 50 * 0.37, "duration": 0.3 + i % 5 * 0.1, "speaker": f"s{i % 3}"}
        | {"id": f"u{i}", "text": f"word {i}", "room": {"size": i}}
        for i in range(count)
    ]
    rows[7]["audio_filepath"] = "gone.wav"
    rows.append({"audio_filepath": "short.flac", "duration": 0.5, "text": "short", "id": "short"})
    path = folder / "words.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(**more):
    return OfflineConfig(**{"recipe": RECIPE, "copies": 2, **more})


def make(source, out, jobs=1, **more):
    return augment_offline([source], out, config(**more), engine=engine("jobs", jobs), tell=lambda more, total: None)


def lines(report):
    return [json.loads(line) for line in report.manifest.read_text().splitlines()]


def tree(folder):
    """What a folder holds, hidden files too."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_copy_on_disk_holds_what_training_hears_in_that_epoch(source, tmp_path):
    """Rounded to 16 bits on both sides: a float of training has more digits than PCM can keep."""
    report = make(source, tmp_path / "out", seed=3, copies=3, keep_original=False)
    training = SpeechDataConfig(train=(str(source),), augment=RECIPE.steps)
    index = training.read(training.train, type("Task", (), {"target": "text"}))
    loader = Loader(index, training, lambda text: [0], training=True, seed=3)
    heard = defaultdict(dict)
    for epoch in range(4):
        loader.set_position(epoch, 0)
        for (batch,) in loader:
            for audio, count, row in zip(
                batch.audio.numpy(), batch.audio_len.tolist(), batch.rows.tolist(), strict=True
            ):
                heard[epoch][index.row(row).id] = pcm16(audio[:count])[0].tobytes()
    made = defaultdict(dict)
    for line in lines(report):
        samples, rate = soundfile.read(report.manifest.parent / line["audio_filepath"], dtype="int16")
        assert rate == 16_000 and line["duration"] == pytest.approx(len(samples) / rate, abs=1e-6)
        made[line["copy"]][line["source_id"]] = samples.tobytes()
    assert set(made) == {1, 2, 3} and len(made[1]) == 40
    assert all(made[k] == heard[k] for k in made)
    assert made[1] != made[2]


def test_the_unchanged_copy_of_pcm_is_the_recording_itself(source, tmp_path):
    report = make(source, tmp_path / "out", format="flac")
    first = lines(report)[0]
    assert first["id"] == "u0_c0" and first["augmentation"] == {}
    copy, _ = soundfile.read(report.manifest.parent / first["audio_filepath"], dtype="int16")
    recording, _ = soundfile.read(source.parent / "long.wav", dtype="int16", frames=len(copy))
    np.testing.assert_array_equal(copy, recording)


def test_a_line_says_where_it_comes_from(source, tmp_path):
    report = make(source, tmp_path / "out", new_speakers=True)
    made = {line["id"]: line for line in lines(report)}
    assert len(made) == len(lines(report)) == 3 * 40 == report.lines
    slower = next(line for line in made.values() if line["augmentation"].get("speed") == {"factor": 1.1})
    row = json.loads(source.read_text().splitlines()[int(slower["source"].rpartition(":")[2]) - 1])
    assert slower["source"].startswith(f"{source}:") and slower["source_id"] == row["id"]
    assert slower["speaker"] == f"sp0.909-{row['speaker']}" and slower["text"] == row["text"]
    assert slower["duration"] == pytest.approx(1.1 * row["duration"], abs=1e-3)
    assert slower["recipe"] == RECIPE.digest and slower["seed"] == 0 and slower["room"] == row["room"]
    assert {line["speaker"] for line in made.values() if line["copy"] == 0 and "speaker" in line} == {"s0", "s1", "s2"}
    index = Index.read([report.manifest], target="text")
    assert len(index) == 120 and not index.problems


def test_rows_that_cannot_be_used_are_said_once_and_cost_no_other(source, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "anemone.data"):
        report = make(source, tmp_path / "out")
    assert [(problem.file, problem.line) for problem in report.problems] == [(str(source), 8)]
    assert "gone.wav` must be an audio file, but does not exist" in report.problems[0].cause
    assert caplog.text.count("gone.wav") == 1
    again = make(source, tmp_path / "out")
    assert again == report


def test_a_folder_holds_one_job(source, tmp_path):
    make(source, tmp_path / "out", copies=1)
    for other in [{"seed": 1}, {"copies": 3}, {"recipe": Recipe.parse(STEPS[:1])}, {"format": "flac"}]:
        with pytest.raises(DataError, match=f"holds another job: .*`{next(iter(other))}` was .* Give another folder"):
            make(source, tmp_path / "out", **{"copies": 1, **other})


def test_steps_that_work_on_features_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"recipe.*\['spec_augment'\]"):
        config(recipe=Recipe.parse([*STEPS, "spec_augment"]))


def test_a_folder_with_something_else_in_it_is_refused(source):
    with pytest.raises(DataError, match=r"must be an empty folder, .* it holds `long\.wav`"):
        make(source, source.parent)
    with pytest.raises(DataError, match="must be a folder to write to"):
        make(source, source)


def test_ids_lead_nowhere_and_are_made_different(source, tmp_path, caplog):
    rows = [json.loads(line) for line in source.read_text().splitlines()[:5]]
    for row, name in zip(rows, ["../../up", "/etc/passwd", "a", "a", "é" * 300], strict=True):
        row["id"] = name
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = make(source, tmp_path / "out", copies=1)
    assert [line["id"] for line in lines(report)][4:8] == ["a_c0", "a_c1", "a-2_c0", "a-2_c1"]
    assert "1 ids stand more than once, as `a`" in caplog.text
    held = {f"audio/{path.parent.name}/{path.name}" for path in (tmp_path / "out" / "audio").rglob("*.wav")}
    assert held == {line["audio_filepath"] for line in lines(report)} and len(held) == 10
    assert not list(tmp_path.rglob("passwd*.wav"))[1:] and not list(tmp_path.glob("up*"))
    report = shard([source], tmp_path / "tars", shards=1, engine=engine("jobs", 1), tell=lambda more, total: None)
    with tarfile.open(tmp_path / "tars" / "audio_0.tar") as tar:
        names = tar.getnames()
    assert len(set(names)) == 5 and all("/" not in name and name.count(".") == 1 and len(name) <= 100 for name in names)


def test_loud_copies_are_clipped_and_say_so(source, tmp_path):
    loud = Recipe.parse([{"gain": {"min_db": 40, "max_db": 40, "p": 1}}])
    made = lines(make(source, tmp_path / "out", recipe=loud, copies=1))
    assert all(("clipped" in line) == (line["copy"] == 1) for line in made)


def test_tars_hold_what_files_hold(source, tmp_path):
    files, tars = make(source, tmp_path / "files"), make(source, tmp_path / "tars", shards=3)
    for one, other in zip(lines(files), lines(tars), strict=True):
        assert {**one, "audio_filepath": ""} == {**other, "audio_filepath": ""}
    read = SpeechDataConfig().shared()
    for one, other in zip(
        *(Index.read([report.manifest], target="text").rows(range(9)) for report in (files, tars)), strict=True
    ):
        np.testing.assert_array_equal(read.piece(one.audio), read.piece(other.audio))
    for number in range(3):
        with tarfile.open(tmp_path / "tars" / f"audio_{number}.tar") as tar:
            listed = (tmp_path / "tars" / "tarred_audio_manifest.json").read_text().splitlines()
            here = [row["audio_filepath"] for row in map(json.loads, listed) if row["shard_id"] == number]
            assert tar.getnames() == here and all(member.mtime == 0 for member in tar)


# --- killed at any moment ---------------------------------------------------------------------------------------------

HERE = {"engine": engine("jobs", 1), "tell": max}  # `max` takes two numbers, too, and another process finds it
VERBS = {
    "augment": (augment_offline, {"config": config(), **HERE}),
    "augment into tars": (augment_offline, {"config": config(shards=9), **HERE}),
    "shard": (shard, {"shards": 9, **HERE}),
}


def killed(out, process, rng, units):
    """Kills a process after so many units at random, or in its last steps; returns whether it was still at work."""
    goal = rng.randrange(units + 2)
    last = out / (".work/drafts" if goal == units else "samples")
    parts = out / ".work" / "parts"
    while process.is_alive():
        if parts.exists() and len(os.listdir(parts)) >= min(goal, units) and (goal < units or last.exists()):
            break
    time.sleep(rng.random() * 0.01)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("verb", VERBS)
def test_work_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(verb, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["anemone.testing", "anemone.data.offline"])
    source, (function, settings) = words(tmp_path, 120), VERBS[verb]
    function([source], tmp_path / "whole", **settings)
    expected, kills = tree(tmp_path / "whole"), 0
    assert not [name for name in expected if name.startswith(".")]
    for seed in range(3):
        rng, out = random.Random(seed), tmp_path / f"out{seed}"
        for _ in range(4):
            process = context.Process(target=function, args=([source], out), kwargs=settings)
            process.start()
            kills += killed(out, process, rng, 8)
        function([source], out, **settings)
        assert tree(out) == expected
    assert kills >= 6


def test_killed_with_processes_at_work_it_leaves_none_and_goes_on_to_the_same_bytes(tmp_path):
    """The command itself, and then with another number of processes."""
    source = words(tmp_path, 150)
    (tmp_path / "recipe.yaml").write_text(json.dumps(STEPS))
    make(source, tmp_path / "whole")
    out = tmp_path / "out"
    words_of = ["data", "augment", source, tmp_path / "recipe.yaml", out, "--copies", "2"]
    command = [sys.executable, "-m", "anemone", *words_of]
    process = subprocess.Popen([*command, "--jobs", "2"], stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list(out.glob(".work/parts/*")):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while (left := of_session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    done = subprocess.run([*command, "--jobs", "1"], capture_output=True, text=True)
    assert done.returncode == 1 and "1 could not be used" in done.stderr, done.stderr
    assert "151 utterances" in done.stdout and tree(out) == tree(tmp_path / "whole")


def of_session(session):
    """Processes that live, of those that one began and all that these began."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
            found += [path.parent.name] if int(of) == session and state != "Z" else []
    return found
