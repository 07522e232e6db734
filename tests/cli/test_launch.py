"""`anemone launch`: what it prints is checked first; what it submits is what it would print."""

import re
from types import SimpleNamespace

import pytest
import submitit
import yaml

from anemone.cli import launch

HERE = "telephone_words_quartznet"


@pytest.mark.parametrize("on", ["torchrun", "slurm", "kubernetes", "skypilot"])
def test_every_scheduler_gets_the_settings(anemone, on):
    ran = anemone("launch", HERE, "--on", on, "--nodes", 2, "--gpus", 4, "--image", "mine:1", "optim.lr=0.25")
    assert ran.status == 0, ran.err
    assert (f"anemone train {HERE} optim.lr=0.25" in ran.out and f"runs/{HERE}" in ran.out) or on == "torchrun"


def test_a_job_is_named_as_kubernetes_takes_it(anemone):
    ran = anemone("launch", HERE, "--on", "kubernetes", "--image", "mine:1")
    assert yaml.safe_load(ran.out)["metadata"]["name"] == "telephone-words-quartznet"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on", "slurm", "--nodes", 2, "--gpus", 4, "parallel.tp=3"], r"`parallel` must be a layout for 8 processes"),
        (["--on", "slurm", "optim.rate=1"], r"`optim.rate` is not a setting"),
        (["--on", "kubernetes"], r"`--image` must be given for Kubernetes"),
        (["--on", "skypilot", "--submit"], r"`--submit` must be used with `--on slurm`"),
        (["--on", "slurm", "--gpus", -1], r"`--gpus` must be 0 or more"),
        (["--on", "cloud"], r"invalid choice"),
    ],
)
def test_mistakes_are_told_before_anything_is_started(anemone, words, said):
    ran = anemone("launch", HERE, *words)
    assert ran.status == 2
    assert re.search(said, ran.err), ran.err


def test_submitting_hands_slurm_the_same_job(anemone, monkeypatch):
    seen, known = {}, submitit.SlurmExecutor._valid_parameters()

    class Executor:
        def __init__(self, folder):
            seen["folder"] = folder

        def update_parameters(self, **parameters):
            assert parameters.keys() <= known
            seen.update(parameters)

        def submit(self, sitting):
            seen["words"] = sitting.job.words
            return SimpleNamespace(job_id="17")

    monkeypatch.setattr(submitit, "SlurmExecutor", Executor)
    ran = anemone("launch", HERE, "--on", "slurm", "--nodes", 2, "--gpus", 4, "--hours", 2, "--submit")
    assert (ran.status, ran.out) == (0, "17\n")
    assert seen["folder"] == f"runs/{HERE}/slurm"
    assert seen["words"] == (HERE, f"run.folder=runs/{HERE}")
    assert (seen["nodes"], seen["ntasks_per_node"], seen["gpus_per_node"], seen["time"]) == (2, 4, 4, 120)


def test_a_sitting_goes_back_into_the_queue_until_it_is_done(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("anemone.cli.main", lambda words: calls.append(words) or 0)
    monkeypatch.setattr("subprocess.run", lambda command, check: calls.append(command))
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    job = launch.Job(words=("mine",), folder=str(tmp_path), name="mine")
    launch.Sitting(job)()
    assert calls == [["train", "mine"], ["scontrol", "requeue", "17"]]
    (tmp_path / "results.json").touch()
    launch.Sitting(job)()
    assert calls[2:] == [["train", "mine"]]
