"""First weights by name: every layout of a model starts with the same numbers, and none holds more than its part."""

import hashlib
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement
from torch.distributed.tensor.placement_types import Shard, _StridedShard

from anemone.parallel.gradients import local

Draw = Callable[[str, torch.Size, torch.Generator], Tensor]


@torch.no_grad()
def initialize(
    network: nn.Module,
    draw: Draw,
    seed: int,
    *,
    device: torch.device | str | None = None,
    but: Collection[str] = (),
) -> None:
    """Fills every parameter of a network, one at a time, by its name and a seed; gives memory to those without.

    Args:
        network: before or after `parallelize`; buffers must not be on the meta device.
        draw: the first value of a whole parameter, from its name, shape and a generator on the device.
        seed: of the run.
        device: for what is on the meta device; "cpu" by default.
        but: names of parameters that only get memory.
    """
    allocate(network, device=device)
    for name, parameter in network.named_parameters():
        if name in but:
            continue
        generator = torch.Generator(local(parameter).device).manual_seed(seed_of(seed, name))
        value = draw(name, parameter.shape, generator)
        if isinstance(parameter, DTensor):
            value = part_of(value, parameter.device_mesh, parameter.placements)
        local(parameter).copy_(value)


def allocate(network: nn.Module, *, device: torch.device | str | None = None) -> None:
    """Gives memory to the parameters of a network that have none; names of one weight stay names of one.

    Args:
        network: before or after `parallelize`; buffers must not be on the meta device.
        device: for what is on the meta device; "cpu" by default.
    """
    target = torch.device(device or "cpu")
    assert not any(buffer.is_meta for buffer in network.buffers())
    owners = {name: network.get_submodule(name.rpartition(".")[0]) for name, _ in _all_names(network)}
    ties = {name: network.get_parameter(name) for name in owners}
    network._apply(lambda t: torch.empty_like(t, device=target) if t.is_meta else t)  # type: ignore[no-untyped-call]
    firsts: dict[nn.Parameter, str] = {}
    for name, module in owners.items():
        first = firsts.setdefault(ties[name], name)
        if first != name:
            setattr(module, name.rpartition(".")[2], network.get_parameter(first))


def _all_names(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(network.named_parameters(remove_duplicate=False))


def seed_of(seed: int, name: str) -> int:
    """Returns a seed that differs wherever the seed of the run or the name does.

    Args:
        seed: of the run.
        name: of a parameter.
    """
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def part_of(whole: Tensor, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> Tensor:
    """Returns the part of a tensor that this rank holds, by the rules of `DTensor`; nothing is sent.

    Args:
        whole: the same on all ranks.
        mesh: over which it is sharded.
        placements: how, for each axis of the mesh. A strided shard is cut after all others: weights are divided by
            tensor parallelism first, though its axis is the inner one.
    """
    axes = sorted(enumerate(placements), key=lambda pair: isinstance(pair[1], _StridedShard))
    for axis, placement in axes:
        if isinstance(placement, Shard | _StridedShard):
            pieces = whole.chunk(mesh.size(axis), placement.dim)
            rank = mesh.get_local_rank(axis)
            empty = whole.narrow(placement.dim, 0, 0)
            whole = pieces[rank] if rank < len(pieces) else empty
    return whole
