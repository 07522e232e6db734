"""A run from settings to archive: what it leaves, how it goes on, what it refuses."""

import csv
import json
import os
import signal
import threading
import time

import pytest
import torch
import yaml

from anemone import tasks
from anemone.checkpoint import sharded
from anemone.checkpoint.archive import read_archive
from anemone.config import decode, encode
from anemone.data.loader import Loader
from anemone.errors import ConfigError, DataError, TrainingError
from anemone.training import callbacks, launch
from anemone.training.engine import Engine
from anemone.training.experiment import ExperimentConfig, train
from anemone.training.module import TrainingModule
from anemone.training.resume import read_checkpoint


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_learns_evaluates_and_leaves_a_folder_that_describes_it(experiment, recordings, capsys):
    config = experiment(trainer__max_steps=60, trainer__eval_every=30, run__progress="lines")
    result = train(config)
    folder = result.folder
    assert result.finished and not result.task.training
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "lock",
        "data.json",
        "environment.json",
        "git.diff",
        "log.txt",
        "metrics.csv",
        "tensorboard",
        "checkpoints",
        "results.json",
        "model.anemone",
    }
    table = rows(folder)
    assert [int(row["step"]) for row in table] == list(range(5, 61, 5))
    losses = [float(row["train/loss"]) for row in table]
    assert losses[-1] < 0.7 * losses[0]
    assert [row["step"] for row in table if row["valid/accuracy"]] == ["30", "60"]
    assert result.metrics["test/accuracy"] > 0.5 and "valid/accuracy" in result.metrics
    assert json.loads((folder / "results.json").read_text())["metrics"] == result.metrics
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["task"]["labels"] == ["no", "stop", "yes"]
    assert decode(ExperimentConfig, written).optim == config.optim
    assert json.loads((folder / "data.json").read_text())["train"]["rows"] == 24
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"] == torch.__version__
    assert not [p for p in folder.rglob("*") if p.suffix in {".ckpt", ".pt", ".pkl", ".bin"}]
    assert "60/60" in capsys.readouterr().out
    assert "Finished after 60 steps" in (folder / "log.txt").read_text()
    restored = tasks.load(folder / "model.anemone")
    sound = str(recordings / "test0.wav")
    assert restored.classify([sound])[0].score == pytest.approx(result.task.classify([sound])[0].score, abs=1e-6)


def test_the_archive_holds_the_averaged_weights(experiment):
    result = train(experiment(trainer__max_steps=8))
    saved = read_checkpoint(result.folder / "checkpoints" / "step_8")
    name = next(n for n in result.task.state_dict() if "head" in n and n.endswith("weight"))
    mean = saved.tensors[f"engine/average/mean/{name}"]
    assert not torch.equal(mean, saved.tensors[f"model/{name}"])
    assert torch.equal(tasks.load(result.folder / "model.anemone").state_dict()[name], mean)


def test_the_best_weights_are_kept_and_chosen_on_request(experiment, monkeypatch):
    accuracies = iter([0.2, 0.9, 0.5, 0.4])

    def measured(module, sets):
        names = list(sets)
        value = next(accuracies) if names == ["valid"] else 1.0
        return {f"{names[0]}/accuracy": value, f"{names[0]}/loss": 1.0}

    monkeypatch.setattr("anemone.training.module.TrainingModule.evaluate", measured)
    changes = {"trainer__eval_every": 3, "checkpoint__save_every": 100, "checkpoint__keep": 1}
    result = train(experiment(checkpoint__weights="best", **changes))
    assert {p.name for p in (result.folder / "checkpoints").iterdir()} == {"step_6", "step_12"}
    assert result.metrics["valid/accuracy"] == 0.9
    saved = read_checkpoint(result.folder / "checkpoints" / "step_6").tensors
    weights, means = result.task.state_dict(), "engine/average/mean/"
    assert all(torch.equal(weights[n.removeprefix(means)], saved[n]) for n in saved if n.startswith(means))
    assert json.loads((result.folder / "results.json").read_text())["of_step"] == 6


class Spy(callbacks.Callback):
    """Remembers what Lightning and the engine count."""

    def __init__(self, seen):
        self.seen = seen

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        counted = trainer.global_step, trainer.current_epoch
        self.seen.append((module.engine.steps, batch.epoch, batch.number, *counted, module.result.loss))


@pytest.fixture
def spied(monkeypatch):
    """The list that a run's steps are noted in."""
    seen = []
    build = launch.build_callbacks
    monkeypatch.setattr(launch, "build_callbacks", lambda *args, **kwargs: [*build(*args, **kwargs), Spy(seen)])
    return seen


def slowly(write):
    """The function, on a slow disk."""

    def wait_and_write(*args):
        time.sleep(0.3)
        return write(*args)

    return wait_and_write


@pytest.mark.parametrize("asynchronous", [False, True])
def test_sigterm_saves_and_the_same_command_goes_on_where_it_stopped(experiment, spied, monkeypatch, asynchronous):
    straight = train(experiment(run__folder=experiment().run.folder + "2"))
    expected, before = list(spied), signal.getsignal(signal.SIGTERM)
    spied.clear()

    def ask(self, trainer, module):
        if module.engine.steps == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Metrics, "after_step", ask)
        patch.setattr(sharded, "write_shard", slowly(sharded.write_shard))
        stopped = train(experiment(checkpoint__asynchronous=asynchronous))
    assert not stopped.finished and signal.getsignal(signal.SIGTERM) == before
    assert sorted(p.name for p in (stopped.folder / "checkpoints").iterdir()) == ["step_4", "step_8"]
    assert "the same command goes on" in (stopped.folder / "log.txt").read_text()
    assert not (stopped.folder / "model.anemone").exists()
    resumed = train(experiment())
    assert resumed.finished and spied == expected
    assert resumed.metrics == straight.metrics
    again = train(experiment())
    assert again.metrics == straight.metrics and spied == expected


def test_a_run_in_a_thread_leaves_signals_alone(experiment):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(experiment(trainer__max_steps=2))))
    thread.start()
    thread.join()
    assert results[0].finished


@pytest.mark.parametrize("place", ["anemone.tasks.save", "anemone.training.callbacks.write_json"])
def test_a_run_that_breaks_off_at_its_very_end_is_finished_by_the_same_command(experiment, monkeypatch, place):
    straight = train(experiment(run__folder=experiment().run.folder + "2"))

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(OSError, match="no space"):
            train(experiment())
    folder = straight.folder.with_name("run")
    assert not (folder / "results.json").exists()
    finished = train(experiment())
    assert finished.finished and finished.metrics == straight.metrics
    weights = [tasks.load(run / "model.anemone").state_dict() for run in (folder, straight.folder)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert rows(folder) == rows(straight.folder)


def test_a_test_set_that_cannot_be_measured_costs_no_model(experiment, recordings, tmp_path):
    silent = [json.dumps({"audio_filepath": f"absent{i}.wav", "duration": 1.0, "label": "yes"}) for i in range(3)]
    (tmp_path / "test.jsonl").write_text("\n".join(silent))
    with pytest.raises(DataError, match="none of 3 utterances could be used"):
        train(experiment(data__test=[str(tmp_path / "test.jsonl")], trainer__max_steps=2))
    folder = tmp_path / "run"
    assert "model.anemone`, but could not be measured." in (folder / "log.txt").read_text()
    result = train(experiment(trainer__max_steps=2))
    names = {name.partition("/")[0] for name in result.metrics}
    assert names == {"valid", "test"} and json.loads((folder / "results.json").read_text())["metrics"] == result.metrics


def test_a_model_is_written_once_and_says_how_good_it_is_on_its_test(experiment, monkeypatch, tmp_path):
    archive = tmp_path / "run" / "model.anemone"
    written, save = [], tasks.save

    def count(task, path, **options):
        written.append(path)
        return save(task, path, **options)

    monkeypatch.setattr("anemone.tasks.save", count)
    train(experiment(trainer__max_steps=2))
    assert written == [archive]
    assert "| measured on | set: test, utterances: 6, left_out: 0 |" in read_archive(archive).card


def test_a_run_that_is_interrupted_in_its_test_is_tested_when_it_goes_on(experiment, monkeypatch, tmp_path):
    measured = TrainingModule.evaluate

    def interrupt(module, sets):
        if "test" in sets:
            raise KeyboardInterrupt
        return measured(module, sets)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "evaluate", interrupt)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(experiment(trainer__max_steps=2))
    assert not (tmp_path / "run" / "results.json").exists()
    result = train(experiment(trainer__max_steps=2))
    assert result.finished and any(name.startswith("test/") for name in result.metrics)


def test_minutes_end_a_run_and_more_minutes_prolong_it(experiment):
    short = train(experiment(trainer__max_steps=1000, trainer__max_minutes=1e-6))
    assert short.finished and (short.folder / "checkpoints" / "step_1").exists()
    assert train(experiment(trainer__max_steps=1000, trainer__max_minutes=1e-6)).finished
    assert (short.folder / "checkpoints" / "step_1").exists()
    longer = train(experiment(trainer__max_steps=1000, trainer__max_minutes=0.01))
    assert not (longer.folder / "checkpoints" / "step_1").exists()


def test_epochs_are_counted_in_steps_of_the_plan(experiment, spied):
    train(experiment(trainer={"max_epochs": 2, "batches_per_step": 4}))
    assert [(epoch, number) for _, epoch, number, *_ in spied] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_changed_settings_are_refused_with_what_differs_and_how_to_go_on(experiment):
    train(experiment(trainer__max_steps=4))
    pattern = r"`optim\.lr` was 0\.003 and is 0\.1; `trainer\.max_steps` was 4 and is 6\..*`run\.resume=changed`"
    with pytest.raises(ConfigError, match=pattern):
        train(experiment(trainer__max_steps=6, optim__lr=0.1))
    free = {"trainer__log_every": 2, "checkpoint__save_every": 3, "data__eval_batch_size": 5}
    assert train(experiment(trainer__max_steps=4, **free)).finished
    result = train(experiment(trainer__max_steps=6, optim={"kind": "lion"}, run__resume="changed"))
    assert [int(row["step"]) for row in rows(result.folder)] == [4, 5, 6]
    assert "starts without a memory" in (result.folder / "log.txt").read_text()


def test_other_training_data_is_refused_by_content_not_by_place(experiment, recordings, tmp_path):
    train(experiment(trainer__max_steps=2))
    lines = [json.loads(line) for line in (recordings / "train.jsonl").read_text().splitlines()]
    for line in lines:
        line["audio_filepath"] = str(recordings / line["audio_filepath"])
    changed = tmp_path / "fewer.jsonl"
    changed.write_text("\n".join(json.dumps(line) for line in lines[:-1]))
    with pytest.raises(ConfigError, match=r"the training manifests hold something else \(fingerprint \w+, now \w+\)"):
        train(experiment(trainer__max_steps=2, data__train=[str(changed)]))


def test_a_nonfinite_loss_names_manifest_line_and_recording_and_stops(experiment, monkeypatch):
    def loss(self, batch):
        total, count = honest(self, batch)
        return (total * float("nan") if (batch.rows == 5).any() else total), count

    from anemone.tasks.classification import ClassificationTask

    honest = ClassificationTask.loss
    monkeypatch.setattr(ClassificationTask, "loss", loss)
    config = experiment(data__plan={"batch_size": 24}, trainer__max_nonfinite=2)
    with pytest.raises(
        TrainingError, match=r"Utterances: .*train\.jsonl:6 \(.*train5\.wav\)\. It is number 2 in a row"
    ):
        train(config)


def test_labels_that_the_data_do_not_have_are_refused_before_training(experiment, tmp_path):
    pattern = r"`task\.labels` must be the labels of the training data, but is \['a', 'b'\] instead\. 24 of 24 training"
    with pytest.raises(ConfigError, match=pattern + r" utterances are labelled otherwise: `no`, `stop`, `yes`\."):
        train(experiment(task={"kind": "classification", "labels": ["a", "b"]}))
    some = {"kind": "classification", "labels": ["no", "yes"]}
    with pytest.raises(ConfigError, match=r"8 of 24 training utterances are labelled otherwise: `stop`\."):
        train(experiment(task=some, data__skip_bad=False))
    assert not (tmp_path / "run").exists()
    result = train(experiment(task=some, trainer__max_steps=2))
    assert result.finished and result.task.labels == ("no", "yes")
    assert "does not have all labels of the training data: 8 of 24" in (result.folder / "log.txt").read_text()


@pytest.mark.parametrize(("name", "said"), [("valid", "validation"), ("test", "test")])
def test_labels_of_the_sets_to_measure_on_are_looked_at_before_training(experiment, recordings, tmp_path, name, said):
    rows = [json.loads(line) for line in (recordings / f"{name}.jsonl").read_text().splitlines()]
    strange = tmp_path / "strange.jsonl"

    def label(number):
        changed = [row | {"audio_filepath": str(recordings / row["audio_filepath"])} for row in rows]
        changed = [row | ({"label": "what"} if i < number else {}) for i, row in enumerate(changed)]
        strange.write_text("\n".join(map(json.dumps, changed)))

    label(len(rows))
    pattern = rf"`task\.labels` must be the labels of the {said} data.*: `what`\."
    with pytest.raises(ConfigError, match=pattern):
        train(experiment(**{f"data__{name}": [str(strange)]}))
    assert not (tmp_path / "run").exists()
    label(2)
    result = train(experiment(**{f"data__{name}": [str(strange)]}, trainer__max_steps=2))
    assert f"all labels of the {said} data: 2 of {len(rows)}" in (result.folder / "log.txt").read_text()
    counts = [result.metrics[f"{name}/{count}"] for count in ("utterances", "left_out")]
    assert counts == [len(rows) - 2, 2]
    written = (result.folder / "log.txt").read_text()
    assert name == "test" or f"valid/utterances {len(rows) - 2}  valid/left_out 2\n" in written


def test_settings_that_need_validation_data_are_refused_or_said_to_be_useless(experiment, tmp_path):
    pattern = r"`checkpoint\.weights` must be last where `data\.valid` is empty, .*, but is 'best' instead"
    with pytest.raises(ConfigError, match=pattern):
        train(experiment(data__valid=[], checkpoint__weights="best"))
    assert not (tmp_path / "run").exists()
    result = train(experiment(data__valid=[], trainer__max_steps=2, trainer__eval_every=1))
    assert "`trainer.eval_every` changes nothing, as `data.valid` is empty." in (tmp_path / "run/log.txt").read_text()
    assert {name.partition("/")[0] for name in result.metrics} == {"test"}


@pytest.fixture
def useless(monkeypatch):
    """Makes the batches of the steps of these numbers empty."""
    numbers = set()
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda self, given: step(self, [] if self.steps in numbers else given))
    return numbers


def test_steps_with_nothing_to_learn_from_are_counted_and_said(experiment, useless):
    useless |= {1, 3}
    result = train(experiment(trainer__max_steps=5))
    said = (result.folder / "log.txt").read_text()
    assert "2 of 5 steps did not move the weights, 2 of them because no utterance could be used." in said
    assert rows(result.folder)[-1]["train/skipped"] == "2.0"


def test_a_run_that_learnt_nothing_is_an_error_and_leaves_no_archive(experiment, useless, tmp_path):
    useless.add(0)
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"Nothing was learnt: 1 of 1 step did not move the weights, 1 of them"):
            train(experiment(trainer__max_steps=1))
    assert not (tmp_path / "run" / "model.anemone").exists()


def test_settings_that_cannot_be_are_refused_before_anything_is_written(experiment, tmp_path):
    for changes, pattern in (
        ({"precision": "tf32"}, r"`precision` must be 32, 16-mixed, .* on this device \(cpu\)"),
        ({"trainer__accelerator": "gpu"}, r"`trainer\.accelerator` must be cpu or auto where PyTorch sees no GPU"),
        ({"data__train": []}, r"`data\.train` must be one or more files"),
        ({"data__plan": {"min_seconds": 9.0}}, r"`data\.plan` must be such that it leaves some of the training data"),
        ({"trainer__devices": 2, "trainer__batches_per_step": 3}, r"`trainer\.batches_per_step` must be a multiple of"),
        (
            {"trainer__devices": 2, "parallel": {"tp": 3}},
            r"`parallel` must be a layout for 2 processes, which .* = 1 \* 1 \* 3 \* 1 = 3 must divide",
        ),
        (
            {"trainer__devices": 4, "parallel": {"dp_replicate": 3}},
            r"`parallel\.dp_replicate` must be 4, or null, with 4 processes",
        ),
        ({"trainer__devices": 2, "parallel": {"cp": 2}}, r"`parallel\.cp` must be 1 for this QuartzNet"),
        (
            {"trainer__devices": 2, "parallel": {"pp": 2}, "trainer__batches_per_step": 1},
            r"`trainer\.batches_per_step` must be such that each pipeline has 2 or more",
        ),
    ):
        with pytest.raises(ConfigError, match=pattern):
            train(experiment(**changes))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_several_sets_are_named_after_their_manifests(experiment, recordings):
    valid = [str(recordings / "valid.jsonl"), str(recordings / "test.jsonl")]
    config = experiment(data__valid=valid, data__test=[], trainer__max_steps=2)
    assert {name.partition("/")[0] for name in train(config).metrics} == {"valid_valid", "valid_test"}
    assert encode(config)["task"]["labels"] == []


@pytest.mark.parametrize(("num_workers", "cache_mb"), [(0, 100), (2, 100 / 6)])
def test_the_loaders_of_a_run_keep_no_more_than_the_cache_together(experiment, monkeypatch, num_workers, cache_mb):
    kept = []
    made = Loader.__init__

    def make(self, *args, shared=None, **kwargs):
        if shared:  # without them it only counts steps
            kept.append(shared)
        made(self, *args, shared=shared, **kwargs)

    monkeypatch.setattr(Loader, "__init__", make)
    train(experiment(data__cache_mb=100, data__num_workers=num_workers, trainer__max_steps=2))
    assert len(kept) == 3 and len(set(map(id, kept))) == 1  # forked workers copy it, one for each loader
    assert kept[0].cache_mb == pytest.approx(cache_mb)
