"""The blocks of a network: the modules that are sharded, recomputed and compiled one by one, as its plan names them."""

import re
from collections.abc import Callable
from typing import Any, Protocol

from torch import nn


class HasBlocks(Protocol):
    """What is asked of a plan here."""

    @property
    def blocks(self) -> str | tuple[str, ...]:
        """Patterns of names; ``*`` stands for one part of a name, as in ``layers.*``."""


def find_blocks(network: nn.Module, plan: HasBlocks) -> dict[str, nn.Module]:
    """Returns the blocks that this network holds, by name, in the order of the network.

    Args:
        network: whole, or what a pipeline stage has of it.
        plan: the table of its architecture.
    """
    patterns = (plan.blocks,) if isinstance(plan.blocks, str) else plan.blocks
    matches = [re.compile(re.escape(pattern).replace(r"\*", r"[^.]+")) for pattern in patterns]
    return {name: m for name, m in network.named_modules() if any(match.fullmatch(name) for match in matches)}


def wrap_forward(block: nn.Module, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Puts a function around a block's forward; names of parameters, hooks and the block's class stay as they are.

    Args:
        block: changed in place.
        wrap: takes the forward and returns what stands in its place.
    """
    block.forward = wrap(block.forward)
