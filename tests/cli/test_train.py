"""`train` trains, says how it ended, and goes on where it stopped; signals end it in order."""

import csv
import signal
import subprocess
import sys
import time

import pytest
import yaml

from anemone.training.resume import newest_checkpoint


def test_a_run_is_trained_evaluated_and_used(anemone, experiment, recordings, tmp_path):
    ran = anemone("train", experiment, "run.seed=3")
    assert ran.status == 0, ran.err
    table = ran.out[ran.out.index("metric") :]
    assert "valid/accuracy" in table
    tree = yaml.safe_load((tmp_path / "runs/mine/config.yaml").read_text())
    assert tree["run"]["seed"] == 3 and sorted(tree["task"]["labels"]) == ["no", "stop", "yes"]
    assert anemone("classify", "runs/mine/model.anemone", recordings[0]).status == 0
    again = anemone("train", experiment, "run.seed=3")
    assert again.status == 0 and again.out.endswith(table)


def test_a_run_without_anything_to_measure_prints_no_table(anemone, experiment):
    ran = anemone("train", experiment, "data.valid=[]", "run.progress=none")
    assert ran.status == 0 and "Finished after 2 steps" in ran.out.splitlines()[-1]


def test_other_settings_in_the_same_folder_are_refused(anemone, experiment):
    assert anemone("train", experiment).status == 0
    ran = anemone("train", experiment, "optim.lr=0.5")
    assert ran.status == 2 and "`optim.lr` was 0.001 and is 0.5" in ran.err


def test_multirun_trains_each_combination_in_a_process(anemone, experiment, tmp_path):
    ran = anemone("train", experiment, "--multirun", "run.seed=0,1", "trainer.max_steps=1")
    assert ran.status == 0, ran.err
    with (tmp_path / "runs/mine_multirun/summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run.seed"] for row in rows] == ["0", "1"]
    assert all((tmp_path / row["folder"] / "model.anemone").exists() for row in rows)
    assert all(0 <= float(row["valid/accuracy"]) <= 1 for row in rows)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_saves_and_ends_in_order(experiment, tmp_path, number, status):
    words = ["train", experiment, "trainer.max_steps=100000", "data.valid=[]"]
    log = tmp_path / "out.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "anemone", *map(str, words)], cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT
        )
    metrics = tmp_path / "runs/mine/metrics.csv"
    for _ in range(600):
        if process.poll() is not None or (metrics.exists() and metrics.read_text().count("\n") > 1):
            break
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(timeout=60) == status, log.read_text()
    assert newest_checkpoint(tmp_path / "runs/mine/checkpoints") is not None
    said = log.read_text()
    assert "the same command goes on" in said and "Traceback" not in said


def test_a_manifest_that_is_missing_is_named(anemone, experiment):
    ran = anemone("train", experiment, "data.train=[nowhere.jsonl]")
    assert ran.status == 2 and "nowhere.jsonl" in ran.err and ran.err.count("\n") == 1


def test_a_reader_that_leaves_ends_the_run_quietly(experiment, tmp_path):
    words = [sys.executable, "-m", "anemone", "train", str(experiment), "trainer.max_steps=100000", "data.valid=[]"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("Run `runs/mine` starts")
        process.stdout.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (141, "")
