"""The mesh: which process takes which part of the work, along six axes.

    pp            stages of the network, one after the other
    dp_replicate  copies of the weights that see different data
    dp_shard      shards of the weights that see different data
    cp            parts of each sequence
    tp            columns and rows of each matrix
    ep            experts; lies across dp_shard x cp

Ranks are counted with ``tp`` innermost: the axes that talk most have neighbouring ranks, so they stay within a machine
when processes are started machine by machine, and ``dp_replicate`` and ``pp`` run between machines.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from anemone.config import must, of_kind

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
"""From outermost to innermost."""

VIEWS = {"fsdp": ("dp_shard", "cp"), "data": ("dp_replicate", "dp_shard"), "loss": ("dp_replicate", "dp_shard", "cp")}
"""Axes taken as one: over which weights are sharded; which read different data; which see different tokens."""

ScheduleName = Literal["gpipe", "1f1b", "interleaved_1f1b", "looped_bfs", "interleaved_zero_bubble", "zbv", "dualpipev"]

STAGES = {"gpipe": 1, "1f1b": 1, "interleaved_1f1b": 2, "looped_bfs": 2, "interleaved_zero_bubble": 2}
STAGES |= {"zbv": 2, "dualpipev": 2}
"""Schedule -> stages a rank holds unless asked otherwise."""

ONE_NUMBER = {"gpipe", "1f1b", "zbv", "dualpipev"}
"""Schedules that know one number of stages a rank only."""

ZERO_BUBBLE = {"interleaved_zero_bubble", "zbv", "dualpipev"}
"""Schedules that compute the gradients of inputs and of weights apart."""

RECOMPUTE = {
    "none": "anemone.parallel.recompute:NoneConfig",
    "full": "anemone.parallel.recompute:FullConfig",
    "selective": "anemone.parallel.recompute:SelectiveConfig",
    "auto": "anemone.parallel.recompute:AutoConfig",
}
"""Kind -> config; what they import costs half a second."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How a run is spread over processes; the product of all degrees but ``ep`` is their number."""

    dp_replicate: int | None = None
    """Copies of the weights, each with its own data; null takes what the other degrees leave of the processes."""

    dp_shard: int = 1
    """Shards of the weights, each with its own data."""

    cp: int = 1
    """Parts of each sequence; weights are sharded over them too."""

    tp: int = 1
    """Parts of each matrix; keep it within a machine."""

    pp: int = 1
    """Groups of layers that pass micro-batches on to each other."""

    ep: int = 1
    """Parts of the experts; divides dp_shard * cp."""

    zero: Literal[1, 2, 3] = 3
    """What is sharded over dp_shard * cp beside optimizer states (arXiv:1910.02054). 1: gradients are summed once a
    step, weights stay whole within it; 2: gradients are summed and sharded with each micro-batch; 3: weights too are
    sharded again after each forward."""

    sequence_parallel: bool = True
    """Whether tp also divides what lies between the matrices, along the sequence (arXiv:2205.05198)."""

    loss_parallel: bool = True
    """Whether logits stay divided over the vocabulary under tp."""

    cp_method: Literal["ring", "gather", "ulysses"] = "ring"
    """How attention reaches the other parts: keys and values go round (arXiv:2310.01889), are gathered, or heads are
    exchanged for tokens (arXiv:2309.14509)."""

    cp_balance: Literal["zigzag", "contiguous"] = "zigzag"
    """Which part of a sequence a rank has: chunks i and 2 cp - 1 - i, so that causal attention costs all the same; or
    one piece."""

    schedule: ScheduleName = "1f1b"
    """The order of forwards and backwards in a pipeline."""

    stages_per_rank: int | None = None
    """Stages that a rank of a pipeline holds; null takes the schedule's usual number."""

    recompute: Any = of_kind(RECOMPUTE, optional=True)
    """Which activations are computed again in the backward pass instead of kept; null keeps all."""

    compile: bool = False
    """Whether each block is compiled."""

    async_tp: bool = False
    """Whether products and their communication under tp overlap piece by piece (GPUs only)."""

    prefetch: int = 1
    """Blocks whose weights are gathered ahead of their use."""

    def __post_init__(self) -> None:
        for name in (*AXES, "ep", "stages_per_rank"):
            value = getattr(self, name)
            must(value is None or value >= 1, name, "1 or more", value=value)
        must(self.prefetch >= 0, "prefetch", "0 or more", value=self.prefetch)

    @property
    def sharded(self) -> int:
        """Number of ranks that weights are sharded over."""
        return self.dp_shard * self.cp

    @property
    def stages(self) -> int:
        """Number of stages of a pipeline; of a layout that is resolved."""
        return self.pp * (self.stages_per_rank or 1)

    def resolve(self, world: int) -> "ParallelConfig":
        """Returns the settings with every number filled in, for ``world`` processes.

        Raises:
            ConfigError: the degrees do not make up the processes, or the layout is known not to work; names the
                setting, with the reason.
        """
        rest = self.dp_shard * self.cp * self.tp * self.pp
        product = f"dp_shard * cp * tp * pp = {self.dp_shard} * {self.cp} * {self.tp} * {self.pp} = {rest}"
        fits = f"for {world} processes, which {product} must divide"
        must(world % rest == 0, "parallel", f"a layout {fits}", value=rest, hint="Change a degree or `devices`.")
        copies = world // rest if self.dp_replicate is None else self.dp_replicate
        rule = f"{world // rest}, or null, with {world} processes and {product}"
        must(copies * rest == world, "parallel.dp_replicate", rule, value=copies)
        stages = self.stages_per_rank or STAGES[self.schedule]
        filled = replace(self, dp_replicate=copies, stages_per_rank=stages if self.pp > 1 else 1)
        for refusal in REFUSALS:
            setting = f"parallel.{refusal.setting}"
            must(not refusal.meets(filled), setting, refusal.rule, value=getattr(filled, refusal.setting))
        return filled


class Refusal(NamedTuple):
    """A kind of layout that is not run, and why."""

    setting: str
    rule: str
    meets: Callable[[ParallelConfig], bool]


REFUSALS = (
    Refusal("ep", "a divisor of dp_shard * cp, as experts lie across both", lambda c: c.sharded % c.ep != 0),
    Refusal(
        "zero",
        "1 with a zero-bubble schedule over sharded weights: torch 2.13 takes weights as gathered when their gradients "
        "come later, and gives wrong ones without a word",
        lambda c: c.pp > 1 and c.schedule in ZERO_BUBBLE and c.sharded > 1 and c.zero != 1,
    ),
    Refusal(
        "compile",
        "false with a zero-bubble schedule: a compiled block cannot give gradients of inputs before those of weights",
        lambda c: c.pp > 1 and c.schedule in ZERO_BUBBLE and c.compile,
    ),
    Refusal(
        "async_tp",
        "false without tp, sequence_parallel and compile: the compiler finds what to overlap between their operations",
        lambda c: c.async_tp and not (c.tp > 1 and c.sequence_parallel and c.compile),
    ),
    Refusal(
        "stages_per_rank",
        "1 for gpipe and 1f1b, and 2 for zbv and dualpipev",
        lambda c: c.pp > 1 and c.schedule in ONE_NUMBER and c.stages_per_rank != STAGES[c.schedule],
    ),
)
"""Layouts that resolve refuses, in this order."""


class Mesh:
    """The processes of a run by axis. Alone, without a process group, every axis is None.

    Args:
        config: the degrees.
        device_type: "cpu" or "cuda".

    Raises:
        ConfigError: the degrees do not make up the processes, or the layout is known not to work.
    """

    def __init__(self, config: ParallelConfig, device_type: str = "cpu") -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.config = config.resolve(dist.get_world_size() if joined else 1)
        rule = "false on a CPU: the products that overlap with their communication are kernels for GPUs"
        must(not self.config.async_tp or device_type == "cuda", "parallel.async_tp", rule, value=True)
        self.device_type = device_type
        self._sizes = {axis: int(getattr(self.config, axis)) for axis in AXES}
        self._sizes |= {view: math.prod(self._sizes[axis] for axis in axes) for view, axes in VIEWS.items()}
        self._sizes |= {"ep": self.config.ep, "efsdp": self._sizes["fsdp"] // self.config.ep}
        self._meshes: dict[str, DeviceMesh] = {}
        self.world: DeviceMesh | None = None
        """All processes, by the five axes."""
        if joined:
            self.world = init_device_mesh(device_type, tuple(self._sizes[axis] for axis in AXES), mesh_dim_names=AXES)
            self._meshes = {axis: self.world[axis] for axis in AXES}
            self._meshes |= {view: self.world[axes]._flatten(view) for view, axes in VIEWS.items()}
            expert = ("efsdp", "ep")
            inner = self._meshes["fsdp"]._unflatten(0, tuple(self._sizes[axis] for axis in expert), expert)
            self._meshes |= {axis: inner[axis] for axis in expert}

    def size(self, axis: str) -> int:
        """Number of ranks along an axis or view."""
        return self._sizes[axis]

    def rank(self, axis: str) -> int:
        """Number of this rank along an axis or view, from 0."""
        return self._meshes[axis].get_local_rank() if self._sizes[axis] > 1 else 0

    def axis(self, name: str) -> DeviceMesh | None:
        """The ranks that differ from this one along an axis or view only; None where there are no others."""
        return self._meshes[name] if self._sizes[name] > 1 else None

    def over(self, *names: str) -> DeviceMesh:
        """The mesh of several axes or views, also where they have one rank only; needs a process group."""
        return DeviceMesh._concatenate([self._meshes[name] for name in names])

    @property
    def data_rank(self) -> int:
        """Which share of the micro-batches this rank reads; ranks that differ along tp, cp or pp read the same."""
        return self.rank("data")

    @property
    def data_world(self) -> int:
        """Number of shares."""
        return self.size("data")
