"""Tensors of many ranks in one folder: written once, balanced, whole or not there, and read by any other mesh."""

import json
import math
import os
import re

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from anemone.checkpoint import sharded
from anemone.checkpoint.sharded import COMPLETE, INDEX, ShardWriter
from anemone.checkpoint.shards import open_shards, refuse_other_formats
from anemone.errors import ArchiveError
from anemone.testing import run_ranks
from tests.checkpoint.layouts import LAYOUTS, equal, group_of_all, laid_out, save, save_alone, whole


def load(rank, folder, layout):
    blank = {name: torch.zeros_like(tensor) for name, tensor in whole().items()}
    tensors = laid_out(layout, blank)
    shards = open_shards(folder, group_of_all())
    shards.read_into(tensors)
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}


@pytest.mark.parametrize("saved", LAYOUTS)
def test_what_one_mesh_saves_any_other_and_one_process_loads_bit_by_bit(tmp_path, saved):
    world = math.prod(LAYOUTS[saved][0])
    for names in run_ranks(world, save, tmp_path, saved):
        assert names == ["step_1", "step_2"]
    for step in ("step_1", "step_2"):
        equal(dict(open_shards(tmp_path / step)), whole())
    loaded = {"dp4": "tp2", "tp2": "hybrid", "hybrid": "three", "three": "dp4"}[saved]
    for found in run_ranks(math.prod(LAYOUTS[loaded][0]), load, tmp_path / "step_2", loaded):
        equal(found, whole())


def test_each_piece_is_written_once_and_ranks_write_alike(tmp_path):
    run_ranks(4, save, tmp_path, "hybrid")
    folder = tmp_path / "step_1"
    files = {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    assert len(files) == 4
    sizes = [sum(t.nbytes for t in tensors.values()) for tensors in files.values()]
    assert sum(sizes) == sum(t.nbytes for t in whole().values())
    assert max(sizes) <= 1.5 * min(sizes)
    index = json.loads((folder / INDEX).read_text())["tensors"]
    assert [piece["shape"] for piece in index["matrix"]["pieces"]] == [[4, 12]] * 2
    assert len(index["odd"]["pieces"]) == 4 and len(index["count"]["pieces"]) == 1


def test_nothing_in_a_folder_is_pickled_and_a_marker_names_every_file(tmp_path):
    run_ranks(4, save, tmp_path, "dp4")
    folder = tmp_path / "step_1"
    names = {path.name for path in folder.iterdir()}
    assert json.loads((folder / COMPLETE).read_text())["files"].keys() == names - {COMPLETE}
    assert {INDEX, "state.json"} < names
    for path in folder.iterdir():
        assert not path.read_bytes().startswith((b"\x80", b"PK"))


def test_floats_are_converted_on_the_way_and_nothing_else(tmp_path):
    save_alone(tmp_path / "a", whole())
    target = torch.zeros(8, 12, dtype=torch.float64)
    open_shards(tmp_path / "a").read_into({"matrix": target})
    assert torch.equal(target, whole()["matrix"].double())
    with pytest.raises(ArchiveError, match=r"`count` must be torch.float32, but is torch.int64 in"):
        open_shards(tmp_path / "a").read_into({"count": torch.zeros(3)})
    with pytest.raises(ArchiveError, match=r"`odd` must be \[5, 7\], but is \[7, 5\] in"):
        open_shards(tmp_path / "a").read_into({"odd": torch.zeros(5, 7)})
    with pytest.raises(ArchiveError, match=r"`unknown` is missing in"):
        open_shards(tmp_path / "a").read_into({"unknown": torch.zeros(5, 7)})


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "shard_00000.safetensors` is damaged: its SHA-256": lambda f: flip(f / "shard_00000.safetensors"),
    "index.json` is damaged|is not a complete checkpoint: `index.json` cannot be read": lambda f: flip(f / INDEX),
    "state.json` is damaged": lambda f: (f / "state.json").write_bytes(b"[]"),
    "shard_00000.safetensors` must have .* bytes, but has 9 instead": lambda f: os.truncate(
        f / "shard_00000.safetensors", 9
    ),
    "shard_00000.safetensors` is missing": lambda f: (f / "shard_00000.safetensors").unlink(),
    "is not a complete checkpoint: `complete.json` cannot be read": lambda f: (f / COMPLETE).unlink(),
    "is not a complete checkpoint: `complete.json` can.*": lambda f: (f / COMPLETE).write_text('{"files": {"a": 3}}'),
    "is not a complete checkpoint: `complete.json` cannot": lambda f: (f / COMPLETE).write_bytes(b"{"),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_what_is_damaged_or_missing_is_found(tmp_path, message):
    save_alone(tmp_path / "a", whole())
    DAMAGES[message](tmp_path / "a")
    with pytest.raises(ArchiveError, match=message):
        open_shards(tmp_path / "a")


def open_damaged(rank, folder):
    try:
        open_shards(folder, group_of_all())
    except ArchiveError as error:
        return str(error)


def test_all_ranks_hear_of_damage_that_one_finds(tmp_path):
    run_ranks(4, save, tmp_path, "dp4")
    flip(tmp_path / "step_1" / "shard_00002.safetensors")
    said = run_ranks(3, open_damaged, tmp_path / "step_1")
    assert len(set(said)) == 1 and re.search(r"Rank \d of 3: `.*shard_00002.safetensors` is damaged", said[0])


def save_with_fault(rank, folder, fault):
    group = group_of_all()
    writer = ShardWriter(group)
    writer.write(folder / "step_1", writer.share(laid_out("dp4", whole())))
    if fault == "write" and rank == 2:
        sharded.write_safetensors = full_disk
    if fault == "seal" and rank == 0:
        sharded._write_file = full_disk
    said = []
    for step in (1, 2):
        try:
            writer.write(folder / f"step_{step}", writer.share(laid_out("dp4", whole())))
        except ArchiveError as error:
            said.append(str(error))
    torch.distributed.barrier(group)
    return said, sorted(path.name for path in folder.iterdir())


def full_disk(*args):
    raise OSError(28, "No space left on device", "somewhere")


@pytest.mark.parametrize(("fault", "rank"), [("write", "Rank 2 of 4: "), ("seal", "")])
def test_a_full_disk_is_told_to_all_and_leaves_what_stood_before(tmp_path, fault, rank):
    for said, names in run_ranks(4, save_with_fault, tmp_path, fault):
        assert said == [f"{rank}No space left on device: `somewhere`."] * 2
        assert names == ["step_1"]
    equal(dict(open_shards(tmp_path / "step_1")), whole())


def save_different(rank):
    writer = ShardWriter(group_of_all())
    said = []
    local = torch.zeros(3) + rank
    for tensors in (
        {"a": torch.zeros(3 + rank)},
        {"a": DTensor.from_local(local, init_device_mesh("cpu", (2,)), (torch.distributed.tensor.Partial(),))},
    ):
        try:
            writer.share(tensors)
        except ArchiveError as error:
            said.append(str(error))
    return said


def test_ranks_that_hold_different_tensors_under_one_name_are_refused():
    for said in run_ranks(2, save_different):
        assert re.search(r"`a` must be the same tensor on all ranks, but rank 1 holds another", said[0])
        assert re.search(r"Rank 0 of 2: `a` must be summed up before it is saved", said[1])


def save_part(rank):
    mesh = init_device_mesh("cpu", (2,))
    tensor = distribute_tensor(torch.ones(4), mesh, (Shard(0),))
    try:
        ShardWriter(group_of_all()).share({} if rank else {"a": tensor})
    except ArchiveError as error:
        return str(error)


def test_a_tensor_that_is_not_held_wholly_is_refused():
    for said in run_ranks(2, save_part):
        assert "`a` must be held by the ranks wholly and without overlap, but of its 4 values 2 are held" in said


def test_folders_of_other_versions_are_refused_by_name(tmp_path):
    save_alone(tmp_path / "a", whole())
    refuse_other_formats(tmp_path / "a")
    marker = tmp_path / "a" / COMPLETE
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": 99}))
    with pytest.raises(ArchiveError, match=r"a` has format 99, but this version reads 1"):
        refuse_other_formats(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "state.safetensors").touch()
    with pytest.raises(ArchiveError, match=r"b` was written by an older version"):
        refuse_other_formats(tmp_path / "b")
