"""Tensors of every kind, laid out over meshes, for the tests of sharded folders."""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from anemone.checkpoint.sharded import ShardWriter


def whole():
    """Tensors of every kind, the same in each process."""
    g = torch.Generator().manual_seed(0)
    return {
        "matrix": torch.randn(8, 12, generator=g),
        "odd": torch.randn(7, 5, generator=g),
        "experts": torch.randn(4, 6, 10, generator=g),
        "half": torch.randn(9, generator=g).bfloat16(),
        "few": torch.randn(2, 3, generator=g),
        "scalar": torch.tensor(3.5),
        "count": torch.tensor([7, 8, 9]),
        "none": torch.zeros(0, 4),
    }


# axes of a mesh, and where each tensor lies on them; others are the same on all ranks
LAYOUTS = {
    "dp4": ((4,), {"matrix": (Shard(0),), "odd": (Shard(0),), "half": (Shard(0),), "few": (Shard(0),)}),
    "tp2": ((2,), {"matrix": (Shard(1),), "experts": (Shard(1),)}),
    "hybrid": (
        (2, 2),
        {"matrix": (Replicate(), Shard(0)), "odd": (Shard(1), Shard(0)), "experts": (Shard(0), Shard(2))},
    ),
    "three": ((3,), {"matrix": (Shard(0),), "odd": (Shard(1),), "experts": (Shard(2),), "half": (Shard(0),)}),
}


def laid_out(layout, tensors):
    shape, places = LAYOUTS[layout]
    mesh = init_device_mesh("cpu", shape)
    return {
        name: distribute_tensor(tensor, mesh, places[name]) if name in places else tensor.clone()
        for name, tensor in tensors.items()
    }


def group_of_all():
    return torch.distributed.new_group(backend="gloo")


def save(rank, folder, layout):
    group = group_of_all()
    writer = ShardWriter(group)
    for step in (1, 2):  # the second time, the layout is known
        tensors = laid_out(layout, whole())
        writer.write(folder / f"step_{step}", writer.share(tensors), {"state.json": b"{}"})
    return sorted(path.name for path in folder.iterdir())


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def save_alone(folder, tensors):
    writer = ShardWriter()
    writer.write(folder, writer.share(tensors), {"state.json": b"{}"})
