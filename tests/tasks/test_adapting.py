"""Adapters of tasks: settings, small archives on a base, several by name, merging."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import anemone
from anemone import tasks
from anemone.data.batch import Batch
from anemone.errors import ArchiveError, ConfigError
from anemone.nn.adapters import HOLDER
from anemone.tasks.adapting import (
    AdaptersConfig,
    BottleneckConfig,
    LoraConfig,
    add,
    attach,
    base_of,
    merge,
    remove,
    switch,
    weights_of,
)
from anemone.testing import LETTERS, SMALL_NET, speech, tiny

LORA = LoraConfig(targets=("encoder.blocks.*", "head"), rank=2, alpha=4.0)
DEEP = BottleneckConfig(targets=("encoder.blocks.*",), d=4)
AUDIO = torch.from_numpy(speech(0.4))[None], torch.tensor([6400])
WHISPER = Path(__file__).parents[1] / "golden/huggingface/whisper"
TOKENS = torch.arange(12)[None], torch.arange(12)[None]


def randomise(task, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in task.network.named_parameters():
        if HOLDER in name.split(".") and name.endswith("up"):
            parameter.data.normal_(generator=generator).mul_(0.1)


def scores(task):
    out = task.network(*(TOKENS if task.verb == "generate" else AUDIO))
    return (out if isinstance(out, torch.Tensor) else out[0]).detach()


@pytest.fixture
def base(tmp_path):
    """A recogniser in an archive."""
    tasks.save(tiny("recognition"), tmp_path / "base.anemone")
    return tmp_path / "base.anemone"


def adapted(base, config, seed=1):
    task = anemone.load(base)
    task.base = base_of(base, task.network.state_dict())
    attach(task, config)
    randomise(task, seed)
    return task


@pytest.mark.parametrize("kind", ["recognition", "classification", "language_modelling"])
def test_adapters_that_are_new_change_nothing_and_those_that_are_merged_the_same_as_before(kind):
    task = tiny(kind)
    targets = ("layers.*.attention", "layers.*.ffn.up") if kind == "language_modelling" else ("**",)
    deep = ("layers.*",) if kind == "language_modelling" else ("encoder",)
    before = scores(task)
    attach(task, AdaptersConfig(lora=LoraConfig(targets=targets, rank=4), adapters=BottleneckConfig(targets=deep, d=3)))
    assert torch.equal(scores(task), before)
    randomise(task)
    changed = scores(task)
    assert (changed - before).abs().max() > 1e-3
    merge(task)
    assert (scores(task) - changed).abs().max() < 2e-5
    assert task.adapters["default"].lora is None and task.adapters["default"].adapters is not None


def test_an_archive_of_adapters_holds_them_alone_and_loads_on_its_base(base, tmp_path):
    task = adapted(base, AdaptersConfig(name="mine", lora=LORA, adapters=DEEP))
    tasks.save(task, tmp_path / "mine.anemone")
    stored = tasks.read_archive(tmp_path / "mine.anemone")
    assert stored.tensors and all(HOLDER in name.split(".") for name in stored.tensors)
    again = anemone.load(tmp_path / "mine.anemone")
    assert torch.equal(scores(again), scores(task)) and list(again.adapters) == ["mine"]
    tasks.save(again, tmp_path / "whole.anemone")
    base.unlink()
    assert torch.equal(scores(anemone.load(tmp_path / "whole.anemone")), scores(task))


def test_a_base_that_moved_is_found_beside_or_where_one_says(base, tmp_path):
    tasks.save(adapted(base, AdaptersConfig(lora=LORA)), tmp_path / "mine.anemone")
    (tmp_path / "new").mkdir()
    base.rename(tmp_path / "new" / "base.anemone")
    with pytest.raises(ArchiveError, match="hangs on a base that cannot be read; say by `base` where it is"):
        anemone.load(tmp_path / "mine.anemone")
    there = anemone.load(tmp_path / "mine.anemone", base=tmp_path / "new" / "base.anemone")
    (tmp_path / "mine.anemone").rename(tmp_path / "new" / "mine.anemone")
    assert torch.equal(scores(anemone.load(tmp_path / "new" / "mine.anemone")), scores(there))


def test_another_base_is_refused(base, tmp_path):
    tasks.save(adapted(base, AdaptersConfig(lora=LORA)), tmp_path / "mine.anemone")
    tasks.save(tiny("recognition", seed=5), base)
    with pytest.raises(ArchiveError, match=r"must hang on the model that was .* when it was adapted"):
        anemone.load(tmp_path / "mine.anemone")
    with pytest.raises(ArchiveError, match="must hang on"):
        add(anemone.load(base), tmp_path / "mine.anemone")


def test_several_are_added_to_one_base_and_switched(base, tmp_path):
    out = {}
    for seed, name in enumerate(["one", "two"], start=1):
        task = adapted(base, AdaptersConfig(name=name, lora=LORA), seed)
        tasks.save(task, tmp_path / f"{name}.anemone")
        out[name] = scores(task)
    task = anemone.load(base)
    plain = scores(task)
    assert add(task, tmp_path / "one.anemone") == ["one"] and add(task, tmp_path / "two.anemone") == ["two"]
    for name, wanted in out.items():
        switch(task, [name])
        assert torch.equal(scores(task), wanted)
    switch(task, [])
    assert torch.equal(scores(task), plain)
    with pytest.raises(ConfigError, match=r"name` must be none of \['one', 'two'\], but is 'one' instead"):
        add(task, tmp_path / "one.anemone")
    remove(task, "two")
    merge(task)
    assert task.adapters.keys() == {"one"} and torch.equal(scores(task), plain)


def test_weights_that_changed_beside_adapters_are_kept_and_cannot_be_added(base, tmp_path):
    task = adapted(base, AdaptersConfig(lora=LoraConfig(targets=("encoder.blocks.*",))))
    nn.init.normal_(task.network.head.linear.bias)
    tasks.save(task, tmp_path / "mine.anemone")
    assert torch.equal(scores(anemone.load(tmp_path / "mine.anemone")), scores(task))
    with pytest.raises(ArchiveError, match=r"must hold adapters alone, but has `head.linear.bias`, too"):
        add(anemone.load(base), tmp_path / "mine.anemone")


def test_a_whole_archive_is_not_added_and_takes_no_base(base):
    with pytest.raises(ArchiveError, match="must be an archive of adapters, but is a whole model"):
        add(anemone.load(base), base)
    with pytest.raises(ConfigError, match="`base` must be left out"):
        anemone.load(base, base=base)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdaptersConfig(), "`adapt` must be given `lora` or `adapters`"),
        (AdaptersConfig(lora=LoraConfig(targets=("decoder",))), r"`adapt.lora.targets` must be patterns that fit"),
        (AdaptersConfig(lora=LORA, adapters=BottleneckConfig(targets=("x",))), "`adapt.adapters.targets` must be"),
        (AdaptersConfig(name="a b", lora=LORA), "`adapt.name` must be a word"),
    ],
)
def test_settings_that_fit_nothing_are_named(config, message):
    with pytest.raises(ConfigError, match=message):
        attach(tiny("recognition"), config)


def test_adapters_may_hang_on_a_folder_of_another_library(tmp_path):
    task = anemone.load(WHISPER)
    attach(task, AdaptersConfig(lora=LoraConfig(targets=("encoder",), rank=2)))
    task.base = base_of(WHISPER, weights_of(WHISPER))
    tasks.save(task, tmp_path / "small.anemone")
    assert all(HOLDER in name.split(".") for name in tasks.read_archive(tmp_path / "small.anemone").tensors)
    again = anemone.load(tmp_path / "small.anemone").network.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in task.network.state_dict().items())


def test_a_copy_of_an_adapted_task_is_its_own(base):
    task = adapted(base, AdaptersConfig(lora=LORA))
    twin = copy.deepcopy(task)
    randomise(twin, seed=3)
    assert not torch.equal(scores(task), scores(twin))


CONFORMER = {"kind": "conformer", "size": "custom", "d_model": 16, "num_layers": 1, "num_heads": 2, "kernel": 5}
NETS = {
    "quartznet": (SMALL_NET, {"kind": "hybrid", "d_joint": 8, "predictor": {"kind": "lstm", "d_model": 8}}),
    "conformer": (CONFORMER, {"kind": "attention", "d_model": 16}),
}
NETS["conformer"][1]["decoder"] = {"num_layers": 1, "num_heads": 2, "d_hidden": 16}


@pytest.mark.parametrize("name", NETS)
def test_every_layer_that_is_changed_is_one_that_computes(name):
    """A layer whose weight was read beside its forward would leave its adapter without a gradient."""
    model, head = NETS[name]
    task = {"kind": "recognition", "tokenizer": {"kind": "characters", "characters": list(LETTERS)}, "head": head}
    task |= {"prompt": {"format": "canary", "grow": True}} if head["kind"] == "attention" else {}
    made = tasks.rebuild({"task": task, "model": model, "features": {"kind": "log_mel", "num_mels": 32}})
    attach(made, AdaptersConfig(lora=LoraConfig(targets=("encoder", "head"), rank=2)))
    randomise(made)
    texts = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([3, 3])
    audio = torch.randn(2, 16_000), torch.tensor([16_000, 12_000])
    batch = Batch(*audio, *texts, torch.arange(2), rate=16_000, prompt_len=torch.zeros(2, dtype=torch.int64))
    made.loss(batch)[0].backward()
    hung = {n: p.grad for n, p in made.network.named_parameters() if HOLDER in n.split(".")}
    assert len(hung) > 10 and not [n for n, gradient in hung.items() if gradient is None]
