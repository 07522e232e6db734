"""A budget for activations: what each block keeps for its backward pass is measured, and chosen so that all fits.

Steps are alike, so the first one teaches what the next ones need. In it every block is recomputed in full; each is run
once more, to be measured, and the forwards that wait for their backward are counted: a pipeline has several under way.
From then on blocks keep as much as fits, at the least cost; inputs no larger than measured ones need no measuring.
"""

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves

from anemone.config import must
from anemone.parallel.operations import Watch

Mode = Literal["full", "selective", "none"]
MODES: tuple[Mode, ...] = ("full", "selective", "none")
"""From the one that keeps least."""

COSTS = {"full": 1.0, "selective": 0.15, "none": 0.0}
"""Time that the recomputation of a block takes, about, as a share of its forward: products and attention are most."""

Shape = tuple[int, ...]


class Kept(NamedTuple):
    """Bytes that a block keeps for its backward pass, by mode."""

    full: int
    selective: int
    none: int


class Budget:
    """Chooses what blocks keep.

    Args:
        limit: bytes that activations may take.
        num_blocks: blocks of this process, in the order of their forwards.
        groups: ranks that must choose alike.
    """

    def __init__(self, limit: int, num_blocks: int, groups: Sequence[dist.ProcessGroup] = ()) -> None:
        self.limit, self.num_blocks, self.groups = limit, num_blocks, groups
        self.kept: dict[Shape, dict[int, Kept]] = {}
        """By shape of the first block's input: what each block keeps."""
        self.plans: dict[Shape, list[Mode]] = {}
        """By the same: the mode of each block."""
        self.most = [1] * num_blocks
        """Of each block, the most forwards that have waited for their backward at a time."""
        self._waiting: list[set[int]] = [set() for _ in range(num_blocks)]
        self._numbers = itertools.count()
        self._shape: Shape = ()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def choose(self, number: int, shape: Sequence[int], measure: Callable[[], Kept]) -> Mode:
        """Returns the mode of a block's forward that is about to run.

        Args:
            number: of the block.
            shape: of its input.
            measure: runs the block to find out what it keeps.

        Raises:
            ConfigError: the budget is too small for a network that is recomputed in full.
        """
        if not any(self._waiting):
            self._settle()
        if number == 0 or not self._shape:
            self._shape = tuple(shape)
        if plan := self._plan_for(self._shape):
            return plan[number]
        known = self.kept.setdefault(self._shape, {})
        if number not in known:
            known[number] = measure()
        return "full"

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def watch(self, number: int, output: Tensor) -> Tensor:
        """Counts a forward as waiting until its backward comes, or its result is forgotten."""
        waiting, ticket = self._waiting[number], next(self._numbers)
        waiting.add(ticket)
        if len(waiting) > self.most[number]:
            self.most[number] = len(waiting)
            self.plans.clear()
        held = _Held()
        weakref.finalize(held, waiting.discard, ticket)

        def arrived(_: Tensor, held: _Held = held) -> None:
            waiting.discard(ticket)

        output.register_hook(arrived)  # type: ignore[no-untyped-call]
        return output

    def peak(self, kept: Sequence[Kept], plan: Sequence[Mode]) -> int:
        """Computes the most bytes that a plan needs at a time.

        When the backward of block i begins, later blocks of its micro-batch are done, earlier ones are kept, and i
        itself is whole, recomputed or not; all other micro-batches under way are kept.
        """
        sizes: list[int] = [getattr(k, mode) for k, mode in zip(kept, plan, strict=True)]
        others = sum((most - 1) * size for most, size in zip(self.most, sizes, strict=True))
        before = itertools.accumulate(sizes, initial=0)
        return others + max(b + k.none for b, k in zip(before, kept, strict=False))

    def _plan_for(self, shape: Shape) -> list[Mode] | None:
        """The plan of the smallest measured input that is as large in every dimension."""
        if shape in self.plans:
            return self.plans[shape]
        larger = [s for s in self.plans if len(s) == len(shape) and all(a >= b for a, b in zip(s, shape, strict=True))]
        return self.plans[min(larger)] if larger else None

    def _settle(self) -> None:
        """Plans all shapes that are measured."""
        for shape, known in self.kept.items():
            if shape not in self.plans and len(known) == self.num_blocks:
                self.plans[shape] = self._agreed([known[number] for number in range(self.num_blocks)])

    def _agreed(self, kept: list[Kept]) -> list[Mode]:
        """The cheapest plan that fits here, and keeps no more than those of the other ranks of the groups."""
        plan = self._cheapest(kept)
        levels = torch.tensor([-1] * self.num_blocks if plan is None else [MODES.index(mode) for mode in plan])
        for group in self.groups:
            device = dist.distributed_c10d._get_pg_default_device(group)
            levels = levels.to(device)
            dist.all_reduce(levels, dist.ReduceOp.MIN, group=group)
        least = self.peak(kept, [MODES[0]] * self.num_blocks)
        rule = f"at least {least / 2**20:.1f}MiB, which full recomputation of {self.num_blocks} blocks takes here"
        must(int(levels.min()) >= 0, "parallel.recompute.budget", rule, value=f"{self.limit / 2**20:.1f}MiB")
        return [MODES[level] for level in levels.tolist()]

    def _cheapest(self, kept: list[Kept]) -> list[Mode] | None:
        """Blocks in full first, then selective ones, then those that keep all: the last are done with first."""
        n = self.num_blocks
        full_mode, some_mode, none_mode = MODES
        pairs = [(full, some) for full in range(n + 1) for some in range(n + 1 - full)]
        for full, some in sorted(pairs, key=lambda pair: pair[0] * COSTS["full"] + pair[1] * COSTS["selective"]):
            plan = [full_mode] * full + [some_mode] * some + [none_mode] * (n - full - some)
            if self.peak(kept, plan) <= self.limit:
                return plan
        return None


class _Held:
    """Lives as long as the graph of a forward."""


def measure(block: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], *, save: frozenset[str]) -> Kept:
    """Runs a block and returns what it would keep; weights, and inputs that all blocks share, are not counted.

    Args:
        block: whose weights are not counted.
        forward: of the block.
        args: of the forward; the first is the block's own input.
        save: operations whose results a selective recomputation keeps.
    """
    shared = {_key(t) for t in [*block.parameters(), *block.buffers(), *args[1:]] if isinstance(t, Tensor)}
    saved: dict[int, int] = {}
    results: dict[int, int] = {}
    alive: list[torch.UntypedStorage] = []  # memory that is given back could be given out again, and be counted once

    def note(tensor: Tensor, into: dict[int, int]) -> None:
        memory = _local(tensor).untyped_storage()
        alive.append(memory)
        if memory.data_ptr() not in shared:
            into[memory.data_ptr()] = memory.nbytes()

    def pack(tensor: Tensor) -> None:
        note(tensor, saved)  # and keep nothing: no backward pass will ask for it

    def seen(out: Any) -> None:
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                note(tensor, results)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: nothing), Watch(save, seen):
        forward(*args)
    x = args[0]
    own = {_key(x): _local(x).untyped_storage().nbytes()}
    return Kept(sum(own.values()), sum((own | results).values()), sum((own | saved).values()))


def _local(tensor: Tensor) -> Tensor:
    """The memory of a tensor that is here."""
    part: Any = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part.elem if isinstance(part, AsyncCollectiveTensor) else part


def _key(tensor: Tensor) -> int:
    return _local(tensor).untyped_storage().data_ptr()
