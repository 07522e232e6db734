"""A run on Kaldi's features: the losses are those of the audio they were made of, and it goes on exactly."""

import csv
import json

import numpy as np
import pytest
import torch

from anemone.config import decode
from anemone.data.audio import load_audio
from anemone.data.kaldi import write_features
from anemone.data.manifest import Index
from anemone.errors import ConfigError, DataError, PortError
from anemone.training.evaluation import evaluate
from anemone.training.experiment import ExperimentConfig, train

QUIET = {"kind": "log_mel", "num_mels": 32, "dither": 0.0}  # nothing random


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def write(config, manifest, folder, **options):
    """Writes the features of a manifest, as a config makes them, with labels and durations."""
    features, index = config.features.build().eval(), Index.read([manifest], target="label")
    names = [f"u{i:03}" for i in range(len(index))]

    def made():
        for name, row in zip(names, index.rows(range(len(index))), strict=True):
            audio = torch.from_numpy(load_audio(row.audio, 16_000))
            x, x_len = features(audio[None], torch.tensor([len(audio)]))
            yield name, x[0, :, : int(x_len)].T.numpy()

    write_features(folder, made(), **options)
    rows = list(zip(names, index.rows(range(len(index))), strict=True))
    (folder / "utt2label").write_text("".join(f"{name} {row.target}\n" for name, row in rows))
    (folder / "utt2dur").write_text("".join(f"{name} {row.duration!r}\n" for name, row in rows))
    return folder


@pytest.fixture(scope="module")
def sets(recordings, tmp_path_factory):
    """Data directories of the features of the tiny run."""
    from anemone.features.mel import LogMelConfig

    class Config:
        features = LogMelConfig(num_mels=32, dither=0.0)

    folder = tmp_path_factory.mktemp("features")
    return {
        name: str(write(Config, recordings / f"{name}.jsonl", folder / name)) for name in ("train", "valid", "test")
    }


@pytest.fixture
def run(tree, sets, tmp_path):
    """Makes the config of a run on features; changes as for `tree`."""

    def make(name="features", /, **changes):
        made = tree(features=QUIET, trainer__log_every=1, run__folder=str(tmp_path / name))
        made["data"] = {"kind": "kaldi", "plan": {"batch_size": 4}} | {name: [path] for name, path in sets.items()}
        for key, value in changes.items():
            *path, last = key.split("__")
            node = made
            for part in path:
                node = node[part]
            node[last] = value
        return decode(ExperimentConfig, made)

    return make


def test_features_train_as_the_audio_they_were_made_of(experiment, run, recordings, tmp_path):
    audio = train(experiment(features=QUIET, trainer__log_every=1, run__folder=str(tmp_path / "audio")))
    found = train(run())
    assert np.allclose(losses(tmp_path / "audio"), losses(tmp_path / "features"), rtol=2e-4)
    assert np.allclose(losses(tmp_path / "audio")[:3], losses(tmp_path / "features")[:3], rtol=2e-6)
    assert found.metrics["test/loss"] == pytest.approx(audio.metrics["test/loss"], rel=1e-3)
    assert len(found.task.classify([str(recordings / "test0.wav")])) == 1


def test_a_run_on_features_goes_on_exactly(run, tmp_path):
    train(run("whole"))
    train(run("parts", trainer__max_minutes=1e-9))
    stopped = losses(tmp_path / "parts")
    train(run("parts"))
    assert len(stopped) < 12 and losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_features_of_any_width_train_a_model_that_hears_nothing(run, sets, tmp_path):
    config = run(features={"kind": "given", "num_features": 32}, data__cmvn="mean_and_variance")
    found = train(config)
    again = evaluate(found.task, [sets["test"]], cmvn="mean_and_variance")
    assert {name: again[name] for name in ("loss", "accuracy")} == pytest.approx(
        {name: found.metrics[f"test/{name}"] for name in ("loss", "accuracy")}
    )
    assert evaluate(found.task, [sets["test"]])["loss"] != pytest.approx(again["loss"])
    with pytest.raises(DataError, match="hears no recordings"):
        found.task.classify(["x.wav"])


def test_a_model_of_audio_is_measured_on_features_too(run, sets, recordings):
    task = train(run(trainer__max_steps=3)).task
    heard, read = (evaluate(task, [path]) for path in (recordings / "test.jsonl", f"{sets['test']}/feats.scp"))
    assert read == pytest.approx(heard, rel=1e-4)
    with pytest.raises(ConfigError, match="cmvn` must be none"):
        evaluate(task, [recordings / "test.jsonl"], cmvn="mean")
    with pytest.raises(ConfigError, match="channel` must be left out"):
        evaluate(task, [sets["test"]], channel=0)


def test_a_wrong_width_says_both_numbers(run):
    with pytest.raises(PortError, match="axis `F` is 32 wide, not 40"):
        train(run(features={"kind": "given", "num_features": 40}))


def test_data_and_features_must_be_of_one_hop_and_kind(run, tree):
    with pytest.raises(ConfigError, match=r"`data\.hop_ms` must be the hop of the features \(`features\.hop_ms`, 10"):
        run(data__hop_ms=20)
    with pytest.raises(ConfigError, match=r"`features\.kind` must be one that hears audio"):
        decode(ExperimentConfig, tree(features={"kind": "given", "num_features": 32}))


def test_the_folder_of_a_run_says_what_the_features_are(run, tmp_path):
    train(run(trainer__max_steps=1))
    noted = json.loads((tmp_path / "features" / "data.json").read_text())["train"]
    assert noted["rows"] == 24 and noted["frames"] > 24 * 14
