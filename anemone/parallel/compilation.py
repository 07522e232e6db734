"""Compilation of a network, one block at a time: blocks are alike, so a whole network costs the time of one."""

from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

from anemone.parallel.plans import Plan, find


def compile_blocks(network: nn.Module, plan: Plan, *, tensor_parallel: bool = False, backend: str = "inductor") -> None:
    """Compiles each block of a network by ``torch.compile``.

    Args:
        network: changed in place.
        plan: names its blocks.
        tensor_parallel: whether the network is divided over a tensor-parallel axis.
        backend: of ``torch.compile``.
    """
    for block in find(network, plan.blocks):
        block.compile(backend=backend)
    if tensor_parallel:
        # graphs of DTensors come back from torch 2.13's cache on disk with the process groups of the rank that put them
        # there: a second run with tp and cp broke or waited for ever
        torch._functorch.config.enable_autograd_cache = False
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(_settle)


def _settle(module: nn.Module, args: Any, output: Any) -> Any:
    """Waits for a collective that is still under way.

    A compiled block that is given such a tensor reads it too soon or breaks (torch 2.13: without a word, the gradients
    are wrong under tensor parallel with FSDP). Any arithmetic waits.
    """
    return output * 1 if isinstance(output, Tensor) and torch.is_floating_point(output) else output
