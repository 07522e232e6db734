"""A run over text, from settings to archive: it learns, describes itself, and refuses what is no longer the same."""

import csv
import json

import pytest
import yaml

from anemone import tasks
from anemone.checkpoint.archive import read_archive
from anemone.config import decode
from anemone.errors import ConfigError
from anemone.training.experiment import ExperimentConfig, train

LINES = ["she sells sea shells by the sea shore", "peter piper picked a peck of pickled peppers", "how much wood"]


@pytest.fixture
def experiment(tmp_path):
    """Makes the config of a tiny run; changes by dotted name, with __ for the dots."""
    for name, number in (("train", 30), ("valid", 3)):
        rows = [json.dumps({"text": LINES[i % 3]}) for i in range(number)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))

    def make(**changes):
        tree = {
            "task": {"kind": "language_modelling", "tokenizer": {"kind": "bytes"}},
            "model": {"kind": "llama", "d_model": 32, "d_ff": 64},
            "data": {
                "kind": "tokens",
                **{name: [str(tmp_path / f"{name}.jsonl")] for name in ("train", "valid")},
                **{"sequence_len": 32, "batch_size": 4},
            },
            "optim": {"kind": "adamw", "lr": 0.01},
            "schedule": {"kind": "constant"},
            "trainer": {"max_steps": 24, "log_every": 8, "clip_norm": 1.0, "accelerator": "cpu"},
            "run": {"folder": str(tmp_path / "run"), "progress": "lines"},
        }
        for name, value in changes.items():
            node, (*path, last) = tree, name.split("__")
            for part in path:
                node = node[part]
            node[last] = value
        return decode(ExperimentConfig, tree)

    return make


def test_a_run_learns_and_leaves_a_folder_that_describes_it(experiment, capsys):
    result = train(experiment())
    folder = result.folder
    with (folder / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses[-1] < 0.7 * losses[0] and result.metrics["valid/bits_per_byte"] < 6
    assert set(result.metrics) == {
        f"valid/{name}" for name in ("loss", "perplexity", "bits_per_byte", "sequences", "left_out")
    }
    described = json.loads((folder / "data.json").read_text())["train"]
    assert (described["documents"], described["left_out"]) == (30, 0) and described["tokens"] > 900
    assert yaml.safe_load((folder / "config.yaml").read_text())["task"]["context_len"] == 32
    said = capsys.readouterr().out
    assert f"{described['rows']} sequences of 32 tokens" in said and "tokens/s" in said
    card = read_archive(folder / "model.anemone").card
    assert f"{described['rows']} sequences of 32 tokens (fingerprint" in card and "bits per byte" in card.replace(
        "_", " "
    )
    restored = tasks.load(folder / "model.anemone")
    assert restored.context_len == 32
    texts = ["peter piper picked", "zzq xxv"]
    assert [s.nats for s in restored.score(texts)] == pytest.approx([s.nats for s in result.task.score(texts)])
    familiar, strange = restored.score(texts)
    assert familiar.bits_per_byte < strange.bits_per_byte


def test_what_changes_the_rows_is_refused_and_what_only_reads_them_is_not(experiment, tmp_path):
    train(experiment(trainer__max_steps=2))
    for change, words in (
        ({"data__sequence_len": 16}, r"`data\.sequence_len` was 32 and is 16"),
        ({"data__pack": True}, r"`data\.pack` was False and is True"),
        ({"task__context_len": 16}, r"`task\.context_len` was 32 and is 16"),
    ):
        with pytest.raises(ConfigError, match=words):
            train(experiment(trainer__max_steps=2, **change))
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "other " * 200}))
    with pytest.raises(ConfigError, match="hold something else"):
        train(experiment(trainer__max_steps=2))


def test_data_and_settings_of_another_kind_are_refused_by_name(experiment):
    speech = {"kind": "speech", "train": ["a.jsonl"]}
    features = {"kind": "log_mel"}
    for change, words in (
        ({"data": speech}, r"`data\.kind` must be tokens, which the task learns from, but is 'speech' instead"),
        ({"features": features}, r"`features` must be null, as text has none"),
        ({"data__rate": 16_000}, r"`data\.rate` is not a setting of TokenDataConfig"),
    ):
        with pytest.raises(ConfigError, match=words):
            experiment(**change)
    with pytest.raises(ConfigError, match=r"`data\.batch_size` must be at most \d+, as there are \d+ rows"):
        train(experiment(data__batch_size=4000))


@pytest.mark.parametrize(
    ("parallel", "changes", "words"),
    [
        ({"cp": 2}, {"data__sequence_len": 34}, r"`data\.sequence_len` must be a multiple of 4, the chunks of `paral"),
        ({"cp": 2, "cp_balance": "contiguous"}, {"data__sequence_len": 33}, r"`data\.sequence_len` must be a multiple"),
        ({"tp": 2}, {"data__sequence_len": 33}, r"`data\.sequence_len` must be such that tp divides what each rank"),
        ({"cp": 2}, {"data__pack": True}, r"`parallel\.cp_method` must be gather or ulysses with packed documents"),
        ({"cp": 2}, {"model__window": 8}, r"`parallel\.cp_method` must be gather or ulysses with windows"),
        (
            {"cp": 2, "tp": 2, "cp_method": "ulysses"},
            {"model__num_heads": 2},
            r"`parallel\.cp` must be a divisor of th",
        ),
        ({"tp": 4, "cp_method": "ulysses"}, {}, r"`parallel\.tp` must be a divisor of 2, which `model\.num_kv_heads`"),
    ],
)
def test_what_does_not_divide_is_refused_before_processes_start(experiment, tmp_path, parallel, changes, words):
    devices = parallel.get("cp", 1) * parallel.get("tp", 1)
    with pytest.raises(ConfigError, match=words):
        train(experiment(parallel=parallel, trainer__devices=devices, **changes))
    assert not (tmp_path / "run").exists()
