"""Batch normalisation under short weights: its statistics, gains and offsets stay float32.

A mean over many frames needs more than 8 bits of mantissa, and PyTorch's kernels take short states with statistics in
float32, but no short gains beside them.
"""

import copy

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm


def widen_batch_norms(network: nn.Module) -> None:
    """Makes the batch normalisations of a network read their gains and offsets as float32.

    Args:
        network: changed in place; parameters, buffers and their names stay.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            _widen(module)


def _widen(module: nn.Module) -> None:
    twin = copy.copy(module)  # has the same parameters and buffers, always

    def forward(x: Tensor) -> Tensor:
        twin.training = module.training
        wide: Tensor = functional_call(twin, {name: p.float() for name, p in module.named_parameters()}, x)
        return wide

    module.forward = forward
