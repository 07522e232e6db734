"""Tasks are built, saved and loaded; what is loaded does the same."""

import subprocess
import sys

import pytest
import torch

from anemone.checkpoint.archive import read_archive, write_archive
from anemone.checkpoint.card import PIPELINES, model_card
from anemone.config import load_class
from anemone.errors import ArchiveError
from anemone.tasks import TASKS, load, rebuild, save
from anemone.testing import speech, tiny


@pytest.mark.parametrize("place", ["folder", "file.anemone"])
@pytest.mark.parametrize("kind", TASKS)
def test_a_saved_task_comes_back_the_same(kind, place, tmp_path):
    task = tiny(kind)
    save(task, tmp_path / place, notes={"text": "For a test."})
    again = load(tmp_path / place)
    assert not again.training and type(again) is type(task)
    assert again.config_tree() == task.config_tree()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), task.parameters(), strict=True))
    if kind != "pretraining":  # it answers nothing
        given = ["Once", "upon"] if kind == "language_modelling" else [speech(0.5), speech(0.3, seed=1)]
        assert getattr(again, task.verb)(given) == getattr(task, task.verb)(given)
    assert "For a test." in read_archive(tmp_path / place).card


@pytest.mark.parametrize("place", [".", "..", "/", "there/.."])
def test_a_task_is_saved_under_a_name_alone(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArchiveError, match=r"must end in the name of a file or folder to be written|other content"):
        save(tiny(), place)
    assert not list(tmp_path.iterdir())


def test_the_working_folder_can_be_loaded(tmp_path, monkeypatch):
    save(tiny(), tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    assert load(".").config_tree() == tiny().config_tree()


def test_a_loaded_task_can_be_trained_on_and_saved_again(tmp_path):
    save(tiny("classification"), tmp_path / "one.anemone")
    task = load(tmp_path / "one.anemone").train()
    with torch.no_grad():
        for parameter in task.parameters():
            parameter += 1
    save(task, tmp_path / "one.anemone")
    again = load(tmp_path / "one.anemone")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), task.parameters(), strict=True))


@pytest.mark.parametrize("kind", TASKS)
def test_config_task_and_card_agree_on_column_and_verb(kind):
    task, config = tiny(kind), load_class(TASKS[kind])
    assert config.data == "tokens" or config.target == task.target
    use = "task.network.encoder" if kind == "pretraining" else f"task.{task.verb}("
    assert use in PIPELINES[kind][1] and use in model_card("m", task.config_tree())


@pytest.mark.parametrize("kind", TASKS)
def test_the_tree_of_a_task_builds_its_like(kind):
    task = tiny(kind)
    again = rebuild(task.config_tree(), task.files())
    assert again.config_tree() == task.config_tree()
    assert task.config_tree()["loss"]["kind"]
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in task.named_parameters()}


def test_an_archive_whose_config_is_wrong_is_refused_by_its_path(tmp_path):
    save(tiny("classification"), tmp_path / "model")
    archive = read_archive(tmp_path / "model")
    archive.config["model"]["sise"] = "5x5"
    write_archive(tmp_path / "model", archive)
    with pytest.raises(ArchiveError, match=r"model` cannot be used: `model.sise` is not a setting"):
        load(tmp_path / "model")


def test_weights_of_another_size_are_refused(tmp_path):
    save(tiny("classification"), tmp_path / "model")
    archive = read_archive(tmp_path / "model")
    archive.config["task"]["labels"] = ["a", "b"]
    write_archive(tmp_path / "model", archive)
    with pytest.raises(ArchiveError, match=r"model` cannot be used: .*\n.*head\.linear"):
        load(tmp_path / "model")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, tmp_path):
    save(tiny("classification"), tmp_path / "model")
    archive = read_archive(tmp_path / "model")
    archive.tensors["head.linear.bias"][0] = value
    write_archive(tmp_path / "model", archive)
    with pytest.raises(ArchiveError, match=r"model` cannot be used: `head\.linear\.bias` must be finite"):
        load(tmp_path / "model")


def test_a_config_that_asks_for_more_than_came_with_it_is_refused_before_it_gets_memory(tmp_path):
    save(tiny("classification"), tmp_path / "model")
    archive = read_archive(tmp_path / "model")
    archive.config["model"]["blocks"][0]["d_model"] = 60_000
    write_archive(tmp_path / "model", archive)
    with pytest.raises(ArchiveError, match=r"model` cannot be used: the config asks for more than the [\d,]+ weights"):
        load(tmp_path / "model")


def test_an_unknown_name_is_refused():
    with pytest.raises(ArchiveError, match="neither a file or folder that exists nor a pretrained model"):
        load("no-such-model")


def test_loading_imports_neither_the_compiler_nor_the_trainer(tmp_path):
    save(tiny("recognition"), tmp_path / "model.anemone")
    code = f"import sys, anemone; anemone.load({str(tmp_path / 'model.anemone')!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "anemone.features.mel" in loaded
    assert not {"torch._dynamo", "sympy", "lightning", "pyarrow"} & set(loaded)
