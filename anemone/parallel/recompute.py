"""Recomputation of activations: memory is traded for a second forward of some blocks in the backward pass.

A recomputed block keeps its input and, where asked, the results of its costly operations; the rest is computed again
when the backward pass arrives. Loss and gradients do not change by a bit: generators are put back to where the first
forward began, and a second forward leaves no trace in running statistics (arXiv:1604.06174, arXiv:2205.05198).
"""

import functools
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._guards import TracingContext
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from anemone.config import must
from anemone.parallel.budget import Budget, Kept, Mode, measure
from anemone.parallel.operations import OPERATIONS, GiveBack, Keep
from anemone.parallel.plans import Plan, find

log = logging.getLogger("anemone.parallel")

Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]
Forward = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class NoneConfig:
    """All activations are kept."""


@dataclass(frozen=True, kw_only=True)
class FullConfig:
    """A recomputed block keeps its input alone."""

    every: int = 1
    """Only every so-manieth block is recomputed, of those that a process holds."""

    first: int | None = None
    """Only so many of the first blocks that a process holds are recomputed; null: all."""

    def __post_init__(self) -> None:
        must(self.every >= 1, "every", "1 or more", value=self.every)
        must(self.first is None or self.first >= 0, "first", "0 or more", value=self.first)

    @property
    def operations(self) -> frozenset[str]:
        """Operations whose results are kept."""
        return frozenset()


@dataclass(frozen=True, kw_only=True)
class SelectiveConfig(FullConfig):
    """A recomputed block keeps its input and the results of its costly operations."""

    save: tuple[Literal["products", "attention"], ...] = ("products", "attention")
    """Results that are kept: of matrix products and convolutions, and of attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(bool(self.save), "save", "one or more of products and attention", value=self.save)

    @property
    def operations(self) -> frozenset[str]:
        """Operations whose results are kept."""
        return frozenset().union(*(OPERATIONS[name] for name in self.save))


@dataclass(frozen=True, kw_only=True)
class AutoConfig:
    """Each block keeps all, the results of its costly operations, or its input alone, so that all fits a budget."""

    budget: str
    """What the activations of a process may take, such as 12GiB or 800MiB."""

    def __post_init__(self) -> None:
        parse_bytes(self.budget)


RecomputeConfig = NoneConfig | FullConfig | SelectiveConfig | AutoConfig


def parse_bytes(text: str) -> int:
    """Reads a number of bytes.

    Example:
        >>> parse_bytes("1.5GiB")
        1610612736

    Args:
        text: a number, and MiB or GiB.

    Raises:
        ConfigError: it is something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MiB|GiB)", text.strip())
    must(found is not None, "budget", "a number of MiB or GiB, such as 12GiB", value=text)
    assert found is not None
    return int(float(found[1]) * {"MiB": 2**20, "GiB": 2**30}[found[2]])


def recompute(
    network: nn.Module, plan: Plan, config: RecomputeConfig | None, *, groups: Sequence[dist.ProcessGroup] = ()
) -> None:
    """Makes blocks of a network compute their activations again in the backward pass; their names and classes stay.

    Args:
        network: changed in place; what a pipeline stage has of it will do.
        plan: names its blocks.
        config: which blocks, and how; None for none.
        groups: ranks that talk to each other within a block, so that a budget must choose alike for them.
    """
    blocks = find(network, plan.blocks)
    if isinstance(config, FullConfig):
        for block in blocks[: config.first : config.every]:
            block.forward = recomputed(block, config.operations, block.forward)
    elif isinstance(config, AutoConfig):
        budget = Budget(parse_bytes(config.budget), len(blocks), groups)
        for number, block in enumerate(blocks):
            block.forward = _budgeted(budget, number, block, block.forward)


def _budgeted(budget: Budget, number: int, block: nn.Module, forward: Forward) -> Forward:
    """The forward of a block that keeps what a budget allows."""
    save = SelectiveConfig().operations
    ways: dict[Mode, Forward] = {
        "none": forward,
        "selective": recomputed(block, save, forward),
        "full": recomputed(block, frozenset(), forward),
    }

    def measured(args: tuple[Any, ...]) -> Kept:
        devices = [args[0].device] if args[0].is_cuda else []
        with torch.random.fork_rng(devices), _Apart(block, nullcontext()):
            return measure(block, forward, args, save=save)

    @functools.wraps(forward)
    def budgeted(*args: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args)
        way = budget.choose(number, args[0].shape, lambda: measured(args))
        return budget.watch(number, ways[way](*args))

    return budgeted


def recomputed(block: nn.Module, save: frozenset[str], forward: Forward) -> Forward:
    """Returns the forward of a block that keeps its input and the results of some operations.

    Args:
        block: whose buffers a second forward must not change.
        save: the operations.
        forward: of the block.
    """
    selective = functools.partial(create_selective_checkpoint_contexts, _policy(save))

    def contexts() -> Contexts:
        if TracingContext.try_get() is not None:  # the compiler moves buffers once, and knows no contexts but these
            for_compiler: Contexts = selective()
            return for_compiler
        if block._compiled_call_impl is not None:
            _tell_of_fallback()
        if not save:
            return nullcontext(), _Apart(block, nullcontext())
        kept = Keep(save)
        return kept, _Apart(block, GiveBack(kept))

    @functools.wraps(forward)
    def again(*args: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts)

    return again


@functools.cache
def _tell_of_fallback() -> None:
    log.warning(
        "A recomputed block runs without compilation, as something in it cannot be compiled, such as documents packed "
        "into rows; leave `parallel.recompute` or `parallel.compile` out, or `data.pack`."
    )


def _policy(save: frozenset[str]) -> Callable[..., CheckpointPolicy]:
    def policy(context: Any, operation: Any, *args: Any, **kwargs: object) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation.name() in save else CheckpointPolicy.PREFER_RECOMPUTE

    return policy


class _Apart(AbstractContextManager[None]):
    """Runs a forward on copies of a block's buffers, so that running statistics move once a step.

    It can be entered again: a pipeline may compute the gradients of inputs and of weights in two passes.

    Args:
        block: whose buffers.
        inner: what the forward runs under.
    """

    def __init__(self, block: nn.Module, inner: AbstractContextManager[Any]) -> None:
        self.block, self.inner = block, inner
        self.kept: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        self.kept = [(m, name, b) for m in self.block.modules() for name, b in m.named_buffers(recurse=False)]
        for module, name, buffer in self.kept:
            setattr(module, name, buffer.clone())
        self.inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)
        for module, name, buffer in self.kept:
            setattr(module, name, buffer)
