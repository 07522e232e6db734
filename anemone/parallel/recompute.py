"""Recomputation of activations: memory is traded for a second forward of some blocks in the backward pass.

A recomputed block keeps its input and, where asked, the results of its costly operations; the rest is computed again
when the backward pass arrives. Loss and gradients do not change by a bit: generators are put back to where the first
forward began, and a second forward leaves no trace in running statistics (arXiv:1604.06174, arXiv:2205.05198).
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from anemone.config import load_class, must
from anemone.parallel.blocks import HasBlocks, find_blocks, wrap_forward

Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]

RECOMPUTE = {
    "none": "anemone.parallel.recompute:NoneConfig",
    "full": "anemone.parallel.recompute:FullConfig",
    "selective": "anemone.parallel.recompute:SelectiveConfig",
}

aten = torch.ops.aten
OPERATIONS: dict[str, frozenset[Any]] = {
    "products": frozenset(
        {
            aten.mm.default,
            aten.addmm.default,
            aten.bmm.default,
            aten.baddbmm.default,
            aten.convolution.default,
            aten._scaled_mm.default,
            aten._grouped_mm.default,
        }
    ),
    "attention": frozenset(
        {
            aten._scaled_dot_product_flash_attention_for_cpu.default,
            aten._scaled_dot_product_flash_attention.default,
            aten._scaled_dot_product_efficient_attention.default,
            aten._scaled_dot_product_cudnn_attention.default,
        }
    ),
}
"""Operations whose results a selectively recomputed block can keep."""


@dataclass(frozen=True, kw_only=True)
class NoneConfig:
    """All activations are kept."""


@dataclass(frozen=True, kw_only=True)
class FullConfig:
    """A block keeps its input alone."""

    every: int = 1
    """Only every so-manieth block is recomputed, counted over the blocks that a process holds."""

    first: int | None = None
    """Only so many of the first blocks that a process holds are recomputed; null: all."""

    def __post_init__(self) -> None:
        must(self.every >= 1, "every", "1 or more", value=self.every)
        must(self.first is None or self.first >= 0, "first", "0 or more", value=self.first)

    @property
    def operations(self) -> frozenset[Any]:
        """Operations whose results are kept."""
        return frozenset()


@dataclass(frozen=True, kw_only=True)
class SelectiveConfig(FullConfig):
    """A block keeps its input and the results of its costly operations."""

    save: tuple[Literal["products", "attention"], ...] = ("products", "attention")
    """Results that are kept: of matrix products and convolutions, and of attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(bool(self.save), "save", "one or more of products and attention", value=self.save)

    @property
    def operations(self) -> frozenset[Any]:
        """Operations whose results are kept."""
        return frozenset().union(*(OPERATIONS[name] for name in self.save))


RecomputeConfig = NoneConfig | FullConfig | SelectiveConfig


def recompute(network: nn.Module, plan: HasBlocks, config: RecomputeConfig | str) -> None:
    """Makes blocks of a network compute their activations again in the backward pass.

    Args:
        network: changed in place; what a pipeline stage has of it will do.
        plan: names its blocks.
        config: which blocks, and how; a kind of `RECOMPUTE` stands for its defaults.
    """
    config = load_class(RECOMPUTE[config])() if isinstance(config, str) else config
    if isinstance(config, NoneConfig):
        return
    blocks = list(find_blocks(network, plan).values())
    for block in blocks[: config.first : config.every]:
        wrap_forward(block, functools.partial(_recomputed, block, config.operations))


def _recomputed(block: nn.Module, save: frozenset[Any], forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a block that keeps its input and the results of ``save``."""
    selective = functools.partial(create_selective_checkpoint_contexts, _policy(save))

    def contexts() -> Contexts:
        first, again = selective() if save else noop_context_fn()  # type: ignore[no-untyped-call]
        return first, _apart(block, again)

    @functools.wraps(forward)
    def recomputed(*args: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args)
        if torch.compiler.is_compiling():  # the compiler moves buffers once, and takes no contexts but its own
            return checkpoint(forward, *args, use_reentrant=False, context_fn=selective)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts)

    return recomputed


def _policy(save: frozenset[Any]) -> Callable[..., CheckpointPolicy]:
    def policy(context: Any, operation: Any, *args: Any, **kwargs: object) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in save else CheckpointPolicy.PREFER_RECOMPUTE

    return policy


@contextmanager
def _apart(block: nn.Module, inner: AbstractContextManager[Any]) -> Iterator[None]:
    """Runs a second forward on copies of the buffers, so that running statistics move once a step."""
    kept = [(m, name, b) for m in block.modules() for name, b in m.named_buffers(recurse=False)]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        with inner:
            yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
