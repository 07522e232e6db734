"""`--multirun`: every combination is a run in its own folder; a failing one is reported and the rest go on."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from anemone.cli import multirun
from anemone.cli.multirun import folder_name, sweep
from anemone.errors import ConfigError
from anemone.training.settings import experiment as experiment_settings


@pytest.fixture
def started(monkeypatch):
    """Stands in for the processes: remembers their words, and ends as `status` says for a rate; 0 leaves results."""
    seen = SimpleNamespace(configs=[], status={})

    def start(words):
        config = experiment_settings(words[0], words[1:])
        seen.configs.append(config)
        status = seen.status.get(config.optim.lr, 0)
        if status == 0:
            folder = Path(config.run.folder)
            folder.mkdir(parents=True)
            results = {"steps": 1, "metrics": {"valid/accuracy": config.optim.lr}}
            (folder / "results.json").write_text(json.dumps(results))
        return abs(status)

    monkeypatch.setattr(multirun, "start", start)
    return seen


def summary(tmp_path):
    with (tmp_path / "runs/mine_multirun/summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_combination_is_listed_in_order():
    assert [listed for _, listed in sweep(["a=1,2", "b=x,y", "c=3"])] == [
        ["a=1", "b=x"],
        ["a=1", "b=y"],
        ["a=2", "b=x"],
        ["a=2", "b=y"],
    ]
    assert sweep(["m=[1,2],[3]", "k=0"])[0] == (["m=[1,2]", "k=0"], ["m=[1,2]"])
    assert [words for words, _ in sweep(["s=range(1,4)"])] == [["s=1"], ["s=2"], ["s=3"]]


def test_names_of_folders_are_safe_and_distinct():
    assert folder_name(["optim.lr=0.1", "run.seed=2"]) == "optim.lr=0.1,run.seed=2"
    odd = [folder_name([f"data.train=[/a{mark}b.json]"]) for mark in "/:"]
    assert len(set(odd)) == 2 and not any(set(name) & set("/:[]") for name in odd)
    assert len(folder_name([f"x={'9' * 500}"])) < 200


def test_each_run_has_its_settings_and_its_folder(anemone, experiment, started, tmp_path):
    ran = anemone("train", experiment, "--multirun", "optim.lr=0.1,0.2", "optim=adamw,lion", "run.seed=7")
    assert ran.status == 0
    found = [(c.optim.lr, type(c.optim).__name__, c.run.seed, c.run.folder) for c in started.configs]
    root = "runs/mine_multirun"
    assert found == [
        (0.1, "AdamWConfig", 7, f"{root}/optim.lr=0.1,optim=adamw"),
        (0.1, "LionConfig", 7, f"{root}/optim.lr=0.1,optim=lion"),
        (0.2, "AdamWConfig", 7, f"{root}/optim.lr=0.2,optim=adamw"),
        (0.2, "LionConfig", 7, f"{root}/optim.lr=0.2,optim=lion"),
    ]
    rows = summary(tmp_path)
    assert [(row["optim.lr"], row["optim"], row["valid/accuracy"], row["status"]) for row in rows] == [
        (str(lr), optim, str(lr), "done") for lr in (0.1, 0.2) for optim in ("adamw", "lion")
    ]
    assert ran.out.splitlines()[4].split() == ["optim.lr", "optim", "status", "valid/accuracy", "folder"]


def test_a_failing_run_is_reported_and_the_rest_go_on(anemone, experiment, started, tmp_path):
    started.status = {0.2: 2, 0.3: -9}
    ran = anemone("train", experiment, "optim.lr=0.1,0.2,0.3,0.4", "--multirun")
    assert ran.status == 1
    assert [row["status"] for row in summary(tmp_path)] == ["done", "failed (2)", "failed (9)", "done"]
    assert "run 2 of 4 ended with status 2" in ran.err


def test_a_run_that_is_asked_to_stop_stops_all(anemone, experiment, started, tmp_path):
    started.status = {0.2: 130}
    assert anemone("train", experiment, "optim.lr=0.1,0.2,0.3", "--multirun").status == 130
    assert [row["status"] for row in summary(tmp_path)] == ["done", "stopped"]


def test_no_run_starts_where_a_combination_is_wrong(anemone, experiment, started):
    ran = anemone("train", experiment, "optim.lr=0.1,-1", "--multirun")
    assert ran.status == 2 and "`optim.lr` must be above 0, and finite, but is -1.0 instead." in ran.err
    assert not started.configs


def test_the_folder_of_a_run_cannot_be_listed(anemone, experiment, started):
    ran = anemone("train", experiment, "run.folder=a,b", "--multirun")
    assert ran.status == 2 and "`run.folder` must be one folder" in ran.err


def test_without_a_list_there_is_nothing_to_combine(anemone, experiment, started):
    ran = anemone("train", experiment, "--multirun", "optim.lr=0.1")
    assert ran.status == 2 and "must have an override that lists values" in ran.err
    with pytest.raises(ConfigError, match=r"`a=\[` must be key=value"):
        sweep(["a=["])
