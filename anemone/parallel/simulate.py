"""One rank of any number, on one machine: the real code lays out a network and takes a step, with nothing in it.

A fake process group takes part in every collective and sends nothing; tensors have shapes and no memory. What the code
issues is written down, so that a plan can be held against it.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anemone.parallel.apply import Parallel, parallelize
from anemone.parallel.mesh import Mesh, ParallelConfig

COLLECTIVES = {
    "_allgather_base_": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "allreduce_": "all_reduce",
    "all_reduce": "all_reduce",
    "alltoall_base_": "all_to_all",
    "all_to_all_single": "all_to_all",
    "send": "send",
}
"""Operation of torch -> collective, as `anemone.parallel.traffic` names it."""


GREETING = 8
"""Bytes that ranks send each other when they meet for the first time; not counted."""


class Call(NamedTuple):
    """One collective that was issued."""

    axis: str
    collective: str
    payload: int
    """Bytes of the whole tensor: after it is gathered, or before it is summed."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the collectives within its block.

    Args:
        mesh: gives groups their names; axes of one rank have none.
    """

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        axes = ("loss", "tp", "cp", "ep", "efsdp", "fsdp", "dp_replicate", "pp")
        self.axes = {str(m.get_group().group_name): name for name in axes if (m := mesh.axis(name)) is not None}
        if mesh.size("fsdp") == 1:
            self.axes = {group: "dp_replicate" if axis == "loss" else axis for group, axis in self.axes.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation, and writes it down if it is a collective."""
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 1  # asked for the number of a micro-batch, where all are alike, and whether all stages know shapes
        if func.namespace in ("c10d", "_c10d_functional"):
            self._note(func.overloadpacket.__name__, tree_leaves(args))
        return func(*args, **(kwargs or {}))

    def _note(self, name: str, leaves: list[Any]) -> None:
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if name not in COLLECTIVES or not tensors:
            return
        group = next((found for leaf in leaves if (found := self._axis(leaf)) is not None), "other")
        payload = max(tensor.numel() * tensor.element_size() for tensor in tensors)
        if payload <= GREETING:
            return
        collective = COLLECTIVES[name]
        if name == "all_gather_into_tensor":  # is given its part, and the number of parts
            payload *= next(leaf for leaf in leaves if isinstance(leaf, int))
        self.calls.append(Call(group, collective, payload))

    def _axis(self, leaf: Any) -> str | None:
        if isinstance(leaf, str):
            return self.axes.get(leaf)
        if isinstance(leaf, torch.ScriptObject):
            with contextlib.suppress(RuntimeError, TypeError, ValueError):
                return self.axes.get(dist.ProcessGroup.unbox(leaf).group_name)
        return None

    def table(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(axis, collective) -> how many, and bytes in all."""
        found: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for call in self.calls:
            calls, payload = found[call.axis, call.collective]
            found[call.axis, call.collective] = calls + 1, payload + call.payload
        return dict(found)


@contextlib.contextmanager
def pretending(world: int, rank: int) -> Iterator[None]:
    """Makes this process one rank of ``world``, whose others are not there.

    Args:
        world: number of ranks.
        rank: the one that is here.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    assert not dist.is_initialized()
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


class RealMesh(Mesh):
    """A mesh whose ranks are real numbers, also among tensors without memory."""

    def over(self, *names: str) -> DeviceMesh:
        """The mesh of several axes or views."""
        with unset_fake_temporarily():
            return super().over(*names)


class Simulated(NamedTuple):
    """What one rank built and issued."""

    parallel: Parallel
    calls: Recorder
    fake: FakeTensorMode
    """Under which its tensors have no memory."""


def simulate(
    build: Callable[[], nn.Module],
    config: ParallelConfig,
    loss: Callable[[Any, Tensor], Tensor],
    *,
    tokens: tuple[int, int],
    micro_batches: int,
    short: torch.dtype | None = None,
) -> Simulated:
    """Lays out a network and takes one training step without an optimizer, as one rank of a fake process group.

    Args:
        build: makes the network, on the meta device.
        config: the layout.
        loss: from logits and targets.
        tokens: sequences of a micro-batch, and tokens of each that this rank has.
        micro_batches: of the step.
        short: format of weights within the step.
    """
    mesh = RealMesh(config, "cpu")
    with torch.device("meta"):
        network = build()
    parallel = parallelize(network, mesh, short=short)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        network._apply(lambda t: torch.empty_like(t, device="cpu"))  # type: ignore[no-untyped-call]
        ids = torch.zeros(tokens, dtype=torch.int64)
        positions = torch.arange(tokens[1]).expand(tokens)
        recorder = Recorder(mesh)
        with recorder:
            _step(parallel, loss, [(ids, positions)] * micro_batches)
    return Simulated(parallel, recorder, fake)


def _step(parallel: Parallel, loss: Callable[[Any, Tensor], Tensor], inputs: list[tuple[Tensor, Tensor]]) -> None:
    """Forwards and backwards of all micro-batches, and the sums after them."""
    if parallel.mesh.config.pp > 1:
        schedule = parallel.schedule(lambda output, number: loss(output, inputs[0][0]))
        schedule.step(inputs)
    else:
        for number, (ids, positions) in enumerate(inputs):
            parallel.begin(number == len(inputs) - 1)
            loss(parallel.network(ids, positions), ids).backward()  # type: ignore[no-untyped-call]
    parallel.reduce()
