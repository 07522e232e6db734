"""Activations by name."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["relu", "silu", "gelu", "selu", "hardtanh", "identity"]
"""Those of blocks of convolutions."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "selu": F.selu,
    "tanh": torch.tanh,
    "hardtanh": F.hardtanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}
"""Name -> the function; ``hardtanh`` cuts at -1 and 1, ``swish`` is another name of ``silu``."""


def activate(x: Tensor, name: Activation) -> Tensor:
    """Returns the activation of every element.

    Args:
        x: of any shape; it may be written over.
        name: of the activation.
    """
    return F.relu(x, inplace=True) if name == "relu" else ACTIVATIONS[name](x)
