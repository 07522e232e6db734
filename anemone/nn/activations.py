"""Activations by name."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Activation = Literal["relu", "silu", "gelu", "selu", "hardtanh", "identity"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": partial(F.relu, inplace=True),
    "silu": F.silu,
    "gelu": F.gelu,
    "selu": F.selu,
    "hardtanh": F.hardtanh,
    "identity": lambda x: x,
}
"""Name -> the function; ``hardtanh`` cuts at -1 and 1. Its input is given up: some write over it."""


def activate(x: Tensor, name: Activation) -> Tensor:
    """Returns the activation of every element.

    Args:
        x: of any shape; it may be written over.
        name: of the activation.
    """
    return ACTIVATIONS[name](x)
