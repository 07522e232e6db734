"""Training checkpoints: whole or not there, without pickle, and read back to the last bit."""

import json
import threading
import time

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from anemone.checkpoint import sharded
from anemone.checkpoint.sharded import COMPLETE
from anemone.errors import ArchiveError
from anemone.testing import run_ranks
from anemone.training.experiment import train
from anemone.training.resume import (
    Saver,
    checkpoints,
    divided,
    joined,
    network,
    newest_checkpoint,
    prune,
    random_states,
    read_checkpoint,
    set_random_states,
)


def state(value=1.0):
    shared = torch.full((3,), value)
    return {
        "model": {"weight": shared, "tied": shared, "count": torch.tensor(7)},
        "optimizer": {"weight": {"step": torch.tensor(3.0), "momentum": shared}},
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "number": 0.1 + 0.2,
        "nothing": None,
        "empty": {},
    }


def write(folder, step, tree):
    Saver(folder).save(step, tree)


def test_a_checkpoint_comes_back_to_the_last_bit(tmp_path):
    write(tmp_path, 5, state())
    saved = read_checkpoint(tmp_path / "step_5")
    tree = joined(saved.numbers, saved.tensors)
    assert torch.equal(tree["model"]["weight"], torch.ones(3)) and torch.equal(tree["model"]["tied"], torch.ones(3))
    assert tree["model"]["count"].dtype == torch.int64 and tree["half"].dtype == torch.bfloat16
    assert tree["optimizer"]["weight"]["step"] == 3.0
    assert tree["number"] == 0.1 + 0.2 and tree["nothing"] is None and tree["empty"] == {} and saved.step == 5


def test_a_tree_is_filled_in_place_and_what_is_optional_may_be_missing(tmp_path):
    write(tmp_path, 5, state(2.0))
    saved, into = read_checkpoint(tmp_path / "step_5"), state(0.0)
    into["average"] = {"mean": {"weight": torch.zeros(3)}}
    with pytest.raises(ArchiveError, match=r"`average/mean/weight` is missing in"):
        saved.load(into)
    filled = saved.load(into, optional=("average",))
    assert filled["model"]["weight"] is into["model"]["weight"] and "average" not in filled
    assert torch.equal(into["model"]["weight"], torch.full((3,), 2.0)) and filled["number"] == 0.1 + 0.2


def test_weights_that_the_model_does_not_have_are_refused(tmp_path):
    write(tmp_path, 5, state())
    into = state()
    del into["model"]["tied"]
    with pytest.raises(ArchiveError, match=r"`model/tied` of `.*step_5` is not in the model"):
        read_checkpoint(tmp_path / "step_5").load(into, exact=("model",))


def test_an_archive_is_written_tensor_by_tensor_of_averaged_weights(tmp_path):
    from anemone import tasks
    from anemone.testing import tiny

    task = tiny()
    weights = task.state_dict()
    means = {name: tensor + 1 for name, tensor in weights.items() if tensor.is_floating_point()}
    write(tmp_path, 5, {"model": weights, "engine": {"average": {"mean": means}}})
    stored = network(read_checkpoint(tmp_path / "step_5").tensors)
    assert all(tensor.untyped_storage().nbytes() <= 8 for tensor in stored[0].values())
    tasks.save(task, tmp_path / "model.anemone", stored=stored)
    restored = tasks.load(tmp_path / "model.anemone").state_dict()
    assert restored.keys() == weights.keys()
    for name, tensor in restored.items():
        assert torch.equal(tensor, means.get(name, weights[name]))


def test_a_tree_is_divided_and_joined_again():
    numbers, tensors = divided(state())
    assert sorted(tensors)[:2] == ["half", "model/count"] and "optimizer" not in numbers and numbers["empty"] == {}
    again = joined(numbers, tensors)
    assert again.keys() == state().keys() and again["model"]["tied"] is tensors["model/tied"]


def test_every_optimizer_goes_on_bit_by_bit_through_a_file(tmp_path):
    from anemone.config import decode, load_class
    from anemone.training.optim import OPTIMIZERS

    def train(module, optimizer, steps):
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            module(torch.randn(4, 6)).square().sum().backward()
            optimizer.step()

    def memory(module, optimizer):
        return {"memory": {name: dict(optimizer.state[p]) for name, p in module.named_parameters()}}

    for kind in OPTIMIZERS:
        config = decode(load_class(OPTIMIZERS[kind]), {})
        torch.manual_seed(0)
        straight = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))
        broken, resumed = (nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2)) for _ in range(2))
        broken.load_state_dict(straight.state_dict())
        train(straight, config.build(straight), range(6))
        optimizer = config.build(broken)
        train(broken, optimizer, range(3))
        write(tmp_path, 3, {"model": broken.state_dict(), **memory(broken, optimizer)})
        optimizer = config.build(resumed)
        train(resumed, optimizer, [9])  # so that there is a memory to read into
        read_checkpoint(tmp_path / "step_3").load({"model": resumed.state_dict(), **memory(resumed, optimizer)})
        train(resumed, optimizer, range(3, 6))
        for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(a, b), kind


def test_the_newest_that_is_whole_is_taken(tmp_path, caplog):
    assert newest_checkpoint(tmp_path) is None
    for step in (5, 10, 20, 25):
        write(tmp_path, step, state(step))
    (tmp_path / "step_30.tmp").mkdir()
    (tmp_path / "step_20" / COMPLETE).unlink()
    path = tmp_path / "step_25" / "shard_00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    saved = newest_checkpoint(tmp_path)
    assert saved.step == 10 and saved.tensors["model/weight"][0] == 10.0
    assert "is damaged: its SHA-256 is not that of complete.json. The one before is tried." in caplog.text
    assert "step_20` is not a complete checkpoint" in caplog.text


def test_a_run_does_not_start_anew_by_itself_where_no_checkpoint_is_whole(tmp_path):
    write(tmp_path, 5, state())
    (tmp_path / "step_5" / COMPLETE).unlink()
    with pytest.raises(ArchiveError, match=r"has no checkpoint that is whole\. Remove the folder"):
        newest_checkpoint(tmp_path)


def test_a_folder_moved_aside_by_a_killed_save_is_found(tmp_path):
    write(tmp_path, 5, state())
    (tmp_path / "step_5").rename(tmp_path / "step_5.old")
    assert newest_checkpoint(tmp_path).step == 5


def test_a_checkpoint_of_another_version_is_refused_and_not_passed_over(tmp_path):
    for step in (5, 6):
        write(tmp_path, step, state())
    path = tmp_path / "step_6" / COMPLETE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ArchiveError, match=r"step_6` has format 99, but this version reads 1"):
        newest_checkpoint(tmp_path)


def test_pruning_keeps_what_it_is_told_and_removes_what_was_left_half_done(tmp_path):
    for step in (5, 10, 15):
        write(tmp_path, step, state())
    (tmp_path / "step_20.tmp").mkdir()
    (tmp_path / "step_20.tmp" / "model.safetensors").write_bytes(b"half")
    prune(tmp_path, {5, 15})
    assert checkpoints(tmp_path) == {5, 15}
    assert {p.name for p in tmp_path.iterdir()} == {"step_5", "step_15"}


def test_random_states_come_back(tmp_path):
    write(tmp_path, 1, {"random": random_states()})
    expected = torch.rand(3)
    saved = read_checkpoint(tmp_path / "step_1")
    set_random_states(saved.load({"random": random_states()})["random"])
    assert torch.equal(torch.rand(3), expected)


# --- while training goes on -------------------------------------------------------------------------------------------


@pytest.fixture
def slow_disk(monkeypatch):
    """An event that writing waits for."""
    go, write_shard = threading.Event(), sharded.write_shard

    def wait(path, tensors):
        assert go.wait(10)
        return write_shard(path, tensors)

    monkeypatch.setattr(sharded, "write_shard", wait)
    return go


def test_an_asynchronous_save_keeps_the_values_of_its_step(tmp_path, slow_disk):
    saver, tree = Saver(tmp_path, asynchronous=True), state(1.0)
    saver.save(1, tree)
    tree["model"]["weight"].fill_(9.0)
    assert checkpoints(tmp_path) == set()
    slow_disk.set()
    saver.wait()
    saver.wait()
    assert read_checkpoint(tmp_path / "step_1").tensors["model/weight"][0] == 1.0


def test_a_save_waits_for_the_one_before(tmp_path, slow_disk):
    saver, order = Saver(tmp_path, asynchronous=True), []
    saver.save(1, state(1.0), lambda: order.append(1))
    threading.Timer(0.2, slow_disk.set).start()
    began = time.monotonic()
    saver.save(2, state(2.0), lambda: order.append(2))
    assert time.monotonic() - began > 0.1 and order[0] == 1
    saver.wait()
    assert order == [1, 2]
    for step in (1, 2):
        assert read_checkpoint(tmp_path / f"step_{step}").tensors["model/weight"][0] == step


def test_a_failed_save_is_told_when_it_is_waited_for_and_the_one_before_stands(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "disk")

    saver = Saver(tmp_path, asynchronous=True)
    saver.save(1, state())
    saver.wait()
    monkeypatch.setattr(sharded, "write_shard", full)
    saver.save(2, state())
    with pytest.raises(ArchiveError, match=r"step_2` could not be written; the one before stands\. No space left on"):
        saver.save(3, state())
    saver.wait()
    assert newest_checkpoint(tmp_path).step == 1 and {p.name for p in tmp_path.iterdir()} == {"step_1"}


# --- many ranks -------------------------------------------------------------------------------------------------------


def save_on_ranks(rank, folder, asynchronous):
    group = torch.distributed.new_group(backend="gloo")
    mesh = init_device_mesh("cpu", (2,))
    saver = Saver(folder, group, asynchronous=asynchronous)
    for step in (1, 2, 3):
        weight = distribute_tensor(torch.arange(5.0) * step, mesh, (Shard(0),))
        saver.save(step, {"weight": weight, "number": step}, lambda: prune(folder, checkpoints(folder) - {1}))
        sums = torch.ones(1)
        for _ in range(20):  # training goes on
            torch.distributed.all_reduce(sums)
            weight.to_local().fill_(0.0)
    saver.wait()
    return sorted(path.name for path in folder.iterdir())


def newest_on_ranks(rank, folder):
    group = torch.distributed.new_group(backend="gloo")
    saved = newest_checkpoint(folder, group)
    weight = distribute_tensor(torch.zeros(5), init_device_mesh("cpu", (3,)), (Shard(0),))
    tree = saved.load({"weight": weight}, group)
    return saved.step, tree["number"], weight.full_tensor()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_ranks_save_and_go_back_alike_where_the_newest_is_damaged(tmp_path, asynchronous):
    assert run_ranks(2, save_on_ranks, tmp_path, asynchronous) == [["step_2", "step_3"]] * 2
    path = tmp_path / "step_3" / "shard_00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for step, number, weight in run_ranks(3, newest_on_ranks, tmp_path):
        assert step == number == 2 and torch.equal(weight, torch.arange(5.0) * 2)


def test_a_run_whose_last_checkpoint_is_damaged_ends_like_one_that_was_not(experiment, caplog):
    first = train(experiment(trainer__max_steps=8, trainer__log_every=1))
    rows = (first.folder / "metrics.csv").read_bytes()
    path = first.folder / "checkpoints" / "step_8" / "shard_00000.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    train(experiment(trainer__max_steps=8, trainer__log_every=1))
    assert path.read_bytes() == whole and (first.folder / "metrics.csv").read_bytes() == rows
    assert "step_8/shard_00000.safetensors` is damaged" in caplog.text
    assert "The run goes on from step 4." in caplog.text
