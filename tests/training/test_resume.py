"""Training checkpoints: whole or not there, without pickle, and read back to the last bit."""

import json

import pytest
import torch
from torch import nn

from anemone.errors import ArchiveError
from anemone.training.resume import (
    Checkpoint,
    checkpoints,
    newest_checkpoint,
    prune,
    random_states,
    read_checkpoint,
    set_random_states,
    write_checkpoint,
)


def checkpoint(value=1.0):
    shared = torch.full((3,), value)
    state = {
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "momentum": shared}},
            "param_groups": [{"betas": (0.9, 1)}],
        },
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "number": 0.1 + 0.2,
        "nothing": None,
    }
    return Checkpoint({"weight": shared, "tied": shared, "count": torch.tensor(7)}, state)


def test_a_checkpoint_comes_back_to_the_last_bit(tmp_path):
    write_checkpoint(tmp_path, 5, checkpoint())
    model, state = read_checkpoint(tmp_path / "step_5")
    assert torch.equal(model["weight"], torch.ones(3)) and torch.equal(model["tied"], torch.ones(3))
    assert model["count"].dtype == torch.int64 and state["half"].dtype == torch.bfloat16
    assert state["optimizer"]["state"][0]["step"] == 3.0
    assert state["optimizer"]["param_groups"] == [{"betas": [0.9, 1]}]
    assert state["number"] == 0.1 + 0.2 and state["nothing"] is None and state["step"] == 5


def test_nothing_in_a_checkpoint_is_pickled(tmp_path):
    write_checkpoint(tmp_path, 5, checkpoint())
    assert {p.name for p in (tmp_path / "step_5").iterdir()} == {
        "model.safetensors",
        "state.safetensors",
        "state.json",
    }
    for path in (tmp_path / "step_5").iterdir():
        assert not path.read_bytes().startswith((b"\x80", b"PK"))


def test_every_optimizer_goes_on_bit_by_bit_through_a_file(tmp_path):
    from anemone.config import decode, load_class
    from anemone.training.optim import OPTIMIZERS

    def train(module, optimizer, steps):
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            module(torch.randn(4, 6)).square().sum().backward()
            optimizer.step()

    for kind in OPTIMIZERS:
        config = decode(load_class(OPTIMIZERS[kind]), {})
        torch.manual_seed(0)
        straight = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))
        broken, resumed = (nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2)) for _ in range(2))
        broken.load_state_dict(straight.state_dict())
        train(straight, config.build(straight), range(6))
        optimizer = config.build(broken)
        train(broken, optimizer, range(3))
        write_checkpoint(tmp_path, 3, Checkpoint(broken.state_dict(), {"optimizer": optimizer.state_dict()}))
        saved = read_checkpoint(tmp_path / "step_3")
        resumed.load_state_dict(saved.model)
        optimizer = config.build(resumed)
        optimizer.load_state_dict(saved.state["optimizer"])
        train(resumed, optimizer, range(3, 6))
        for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(a, b), kind


def test_the_newest_that_can_be_read_is_taken(tmp_path, caplog):
    assert newest_checkpoint(tmp_path) is None
    for step in (5, 10, 20):
        write_checkpoint(tmp_path, step, checkpoint(step))
    (tmp_path / "step_30.tmp").mkdir()
    (tmp_path / "step_20" / "state.safetensors").write_bytes(b"cut off")
    step, found = newest_checkpoint(tmp_path)
    assert step == 10 and found.model["weight"][0] == 10.0
    assert "step_20` is not a training checkpoint, or a broken one" in caplog.text


def test_a_folder_moved_aside_by_a_killed_save_is_found(tmp_path):
    write_checkpoint(tmp_path, 5, checkpoint())
    (tmp_path / "step_5").rename(tmp_path / "step_5.old")
    assert newest_checkpoint(tmp_path)[0] == 5


def test_a_checkpoint_of_another_layout_is_refused(tmp_path):
    write_checkpoint(tmp_path, 5, checkpoint())
    path = tmp_path / "step_5" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": 99}))
    with pytest.raises(ArchiveError, match=r"step_5` has layout 99, but this version reads 1"):
        read_checkpoint(tmp_path / "step_5")


def test_pruning_keeps_what_it_is_told_and_removes_what_was_left_half_done(tmp_path):
    for step in (5, 10, 15):
        write_checkpoint(tmp_path, step, checkpoint())
    (tmp_path / "step_20.tmp").mkdir()
    (tmp_path / "step_20.tmp" / "model.safetensors").write_bytes(b"half")
    prune(tmp_path, {5, 15})
    assert checkpoints(tmp_path) == {5, 15}
    assert {p.name for p in tmp_path.iterdir()} == {"step_5", "step_15"}


def test_random_states_come_back(tmp_path):
    write_checkpoint(tmp_path, 1, Checkpoint({}, {"random": random_states()}))
    expected = torch.rand(3)
    set_random_states(read_checkpoint(tmp_path / "step_1").state["random"])
    assert torch.equal(torch.rand(3), expected)
