"""Runs that begin with other models: whole, by part, with another vocabulary, with adapters, partly frozen."""

import json
import logging

import pytest
import torch

import anemone
from anemone import tasks
from anemone.cli import main
from anemone.config import decode, encode
from anemone.errors import ArchiveError, ConfigError
from anemone.nn.adapters import HOLDER
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.tasks.adapting import merge
from anemone.testing import LETTERS, SMALL_LLAMA, run_ranks, speech, tiny
from anemone.training.adapting import AdaptConfig, adapt, filled, start
from anemone.training.convert import convert
from anemone.training.engine import Engine
from anemone.training.experiment import ExperimentConfig, train
from anemone.training.layout import build_task, lay_out
from anemone.training.optim import AdamWConfig
from anemone.training.precision import PRECISIONS

LORA = {"name": "mine", "lora": {"targets": ["encoder.blocks.*"], "rank": 2}}


@pytest.fixture
def base(tmp_path):
    """A classifier in an archive, with statistics that are not the first ones."""
    task = tiny("classification", seed=3)
    for name, buffer in task.network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    tasks.save(task, tmp_path / "base.anemone")
    return tmp_path / "base.anemone"


def weights(path):
    return tasks.read_archive(path).tensors


# --- adapters and frozen parts ----------------------------------------------------------------------------------------


def test_a_run_with_adapters_moves_them_alone_and_leaves_a_small_archive(experiment, base):
    result = train(experiment(adapt=LORA, run__init=str(base), trainer__ema_decay=0.9))
    stored = tasks.read_archive(result.folder / "model.anemone")
    assert stored.tensors and all(HOLDER in name.split(".") for name in stored.tensors)
    own = result.task.network.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in weights(base).items())
    ups = [t for name, t in own.items() if name.endswith("up")]
    assert ups and all(bool(t.abs().sum() > 0) for t in ups)
    again = anemone.load(result.folder / "model.anemone")
    assert all(torch.equal(t, own[name]) for name, t in again.network.state_dict().items())
    index = json.loads((result.folder / "checkpoints/step_12/index.json").read_text())
    moments = [name for name in json.dumps(index).split('"') if name.startswith("engine/optimizer/")]
    assert moments and all(HOLDER in name.split(".") for name in moments)


def test_an_interrupted_run_with_adapters_ends_as_one_that_is_not(experiment, base, tmp_path):
    settings = {"adapt": LORA, "run__init": str(base)}
    whole = train(experiment(**settings, run__folder=str(tmp_path / "whole")))
    part = train(experiment(**settings, run__folder=str(tmp_path / "part")))
    for step in (8, 12):
        assert (part.folder / f"checkpoints/step_{step}").is_dir()
    import shutil

    shutil.rmtree(part.folder / "checkpoints/step_12")
    (part.folder / "model.anemone").unlink()
    again = train(experiment(**settings, run__folder=str(tmp_path / "part")))
    ours, theirs = again.task.network.state_dict(), whole.task.network.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_what_is_frozen_stays_to_the_last_bit_with_its_statistics(experiment, base):
    result = train(experiment(adapt={"freeze": ["encoder"]}, run__init=str(base)))
    before, after = weights(base), weights(result.folder / "model.anemone")
    same = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert same == {name for name in after if not name.startswith("head.")}


def test_what_adapters_leave_out_can_move_beside_them(experiment, base):
    result = train(experiment(adapt={**LORA, "train": ["head"]}, run__init=str(base)))
    names = set(tasks.read_archive(result.folder / "model.anemone").tensors)
    assert {"head.linear.weight", "head.linear.bias"} < names
    task = anemone.load(result.folder / "model.anemone")
    merge(task)
    tasks.save(task, result.folder / "merged.anemone")
    assert weights(result.folder / "merged.anemone").keys() == weights(base).keys()


def test_a_run_with_adapters_becomes_a_whole_model(experiment, base, tmp_path):
    folder = train(experiment(adapt=LORA, run__init=str(base))).folder
    adapted = anemone.load(folder / "model.anemone")
    for source in (folder, folder / "model.anemone"):
        assert main(["convert", str(source), str(tmp_path / "whole.anemone"), "--merge"]) == 0
        whole = anemone.load(tmp_path / "whole.anemone")
        assert whole.network.state_dict().keys() == weights(base).keys()
        audio = torch.from_numpy(speech(0.5))[None], torch.tensor([8000])
        assert (whole(*audio) - adapted(*audio)).abs().max() < 1e-5
    convert(folder / "model.anemone", tmp_path / "unmerged.anemone")
    base.unlink()
    assert list(anemone.load(tmp_path / "unmerged.anemone").adapters) == ["mine"]
    with pytest.raises(ConfigError, match="`--merge` must be left out for a model without adapters"):
        convert(tmp_path / "whole.anemone", tmp_path / "again.anemone", merge=True)


def test_rates_follow_patterns(experiment):
    task = tiny()
    config = AdamWConfig(lr=0.1, rates={"encoder": 0.5, "encoder.blocks.0": 0.1})
    named = {id(p): name for name, p in task.named_parameters()}
    rates = {named[id(p)]: g["base_lr"] for g in config.build(task).param_groups for p in g["params"]}
    assert rates["network.head.linear.weight"] == 0.1
    assert rates["network.encoder.blocks.1.units.0.norm.weight"] == 0.05
    assert rates["network.encoder.blocks.0.units.0.norm.weight"] == pytest.approx(0.01)
    with pytest.raises(ConfigError, match=r"`optim\.rates` must be of patterns that fit weights that move"):
        train(experiment(optim={"kind": "adamw", "rates": {"decoder": 0.1}}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"freeze": ["encodr"]},
            r"`adapt\.freeze` must be patterns that fit .* 'encodr' instead\. Did you mean `encoder`",
        ),
        ({"freeze": ["**"]}, r"`adapt\.freeze` must be such that something moves"),
        ({"lora": {"targets": ["x"]}}, r"`adapt\.lora\.targets` must be patterns that fit modules"),
    ],
)
def test_patterns_that_fit_nothing_are_named(config, message):
    with pytest.raises(ConfigError, match=message):
        adapt(tiny(), decode(AdaptConfig, config))


# --- first weights ----------------------------------------------------------------------------------------------------


def test_parts_come_from_other_models_and_the_rest_is_drawn(experiment, base, caplog):
    config = experiment(
        run__init={"encoder": str(base)}, optim={"kind": "adamw", "lr": 1e-30}, trainer={"max_steps": 1}
    )
    with caplog.at_level(logging.INFO, "anemone.training"):
        result = train(config)
    own, theirs = result.task.network.state_dict(), weights(base)
    parameters = [name for name, _ in result.task.network.named_parameters()]
    same = {name for name in parameters if (own[name] - theirs[name]).abs().max() < 1e-20}
    assert same == {name for name in parameters if name.startswith("encoder.")}
    assert f"The run starts with weights of `{base}`" in caplog.text


def test_a_report_says_what_was_taken_and_why_not(base):
    task = tiny("recognition")
    found = start(task, str(base), but=["head", "encoder.blocks.0"])
    (report,) = found.reports.values()
    assert found.names and all(name.startswith("encoder.blocks.") for name in found.names)
    assert report.skipped["head.linear.weight"] == "drawn: left out by `run.init_only` or `run.init_except`"
    assert 0 < report.share < 1 and set(report.matched) == found.names
    assert start(task, str(base), only=["encoder.blocks.1"]).names < found.names


def test_weights_that_do_not_fit_are_named_with_a_way_out(base):
    with pytest.raises(
        ArchiveError, match=r"(?s)`head\.linear\.weight` must be \[29, 48\], but is \[3, 48\].*init_except"
    ):
        start(tiny("recognition"), str(base))
    with pytest.raises(ConfigError, match=r"`run\.init` must be of parts of the network \(.*\), but is 'decoder'"):
        start(tiny("recognition"), {"decoder": str(base)})
    with pytest.raises(ArchiveError, match=r"has nothing that `run\.init` asks for: it holds encoder, head"):
        start(tiny("recognition"), str(base), only=["features"])


def test_another_tokenizer_keeps_the_rows_of_shared_tokens(tmp_path):
    old = tiny("recognition")
    tasks.save(old, tmp_path / "old.anemone")
    letters = ["ß", *LETTERS[::-1]]
    tree = old.config_tree()
    tree["task"]["tokenizer"]["characters"] = letters
    new = tasks.rebuild(tree)
    begin = start(new, str(tmp_path / "old.anemone"))
    begin.fill(new.network.state_dict())
    rows = [letters.index(letter) for letter in LETTERS] + [len(letters)]
    for name in ("weight", "bias"):
        ours, theirs = getattr(new.network.head.linear, name), getattr(old.network.head.linear, name)
        assert torch.equal(ours[rows], theirs)
    (report,) = begin.reports.values()
    assert report.reshaped.keys() == {"head.linear.weight", "head.linear.bias"}


def test_an_experiment_takes_from_the_archive_what_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path / "cache"))
    old = tiny("recognition")
    tasks.save(old, tmp_path / "old.anemone")
    told = old.config_tree()
    tree = filled({"task": {"kind": "recognition"}, "features": {"dither": 0.5}}, str(tmp_path / "old.anemone"))
    assert tree["model"] == told["model"] and tree["task"] == {n: t for n, t in told["task"].items() if t is not None}
    assert tree["features"] == {**told["features"], "dither": 0.5}
    own = {"kind": "characters", "characters": ["a"]}
    assert (
        filled({"task": {"kind": "recognition", "tokenizer": own}}, str(tmp_path / "old.anemone"))["task"]["tokenizer"]
        == own
    )


# --- over several processes -------------------------------------------------------------------------------------------


def language_model(folder, **changes):
    (folder / "train.txt").write_text("she sells sea shells by the sea shore " * 20)
    return decode(
        ExperimentConfig,
        {
            "task": {"kind": "language_modelling", "tokenizer": {"kind": "bytes"}, "context_len": 16},
            "model": SMALL_LLAMA | {"tie_embeddings": False},
            "data": {"kind": "tokens", "train": [str(folder / "train.txt")], "sequence_len": 16, "batch_size": 2},
            "optim": {"kind": "adamw", "lr": 0.01},
            "schedule": {"kind": "constant"},
            "trainer": {"max_steps": 3, "batches_per_step": 2},
            "adapt": {
                "lora": {"targets": ["layers.*.attention"], "rank": 2},
                "adapters": {"targets": ["layers.*"], "d": 3},
            },
            "run": {"folder": str(folder / "run"), "progress": "none", **changes},
        },
    )


def losses(rank, config, world):
    """Losses of three steps and whether the base stayed, over one process or shards."""
    task = build_task(config)
    mesh = Mesh(ParallelConfig(dp_shard=world)) if world > 1 else None
    parallel = lay_out(task, mesh, precision=PRECISIONS["32"], seed=0, init=config.run.init)
    names = {name: p for name, p in task.network.named_parameters() if not p.requires_grad}
    before = {name: (p.full_tensor() if mesh else p).detach().clone() for name, p in names.items()}
    engine = Engine(task, config.optim.build(task), lambda step: 1.0, parallel=parallel)
    index = config.data.read(config.data.train, task=config.task)
    loader = config.data.loader(
        index, task.encode, training=True, rank=engine.data_rank, world=engine.data_world, batches_per_step=2
    )
    found = [engine.step(step).loss for _, step in zip(range(3), loader, strict=False)]
    same = all(torch.equal(p.full_tensor() if mesh else p, before[name]) for name, p in names.items())
    return found, same, len(names)


def test_adapters_train_over_shards_as_in_one_process(tmp_path):
    base = tiny("language_modelling", seed=4)
    tree = base.config_tree()
    tree["model"]["tie_embeddings"] = False
    tasks.save(tasks.rebuild(tree), tmp_path / "base.anemone")
    config = language_model(tmp_path, init=str(tmp_path / "base.anemone"))
    (alone, same, number), *_ = [losses(0, config, 1)]
    assert same and number and alone[2] < alone[0]
    for found, stayed, frozen in run_ranks(2, losses, config, 2):
        assert stayed and frozen == number and found == pytest.approx(alone, rel=1e-5)


def test_adapters_and_tensor_parallelism_exclude_each_other(tmp_path):
    tree = encode(language_model(tmp_path))
    with pytest.raises(ConfigError, match=r"`parallel\.tp` must be 1 with adapters"):
        decode(ExperimentConfig, tree | {"parallel": {"tp": 2}})
