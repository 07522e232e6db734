"""Dropout (JMLR 15, 2014) whose random bits are quick to draw on a CPU.

PyTorch draws one number for each element there, which takes longer than most of what a layer does with it. Here a draw
of 64 bits serves four elements: the share is rounded to a multiple of 2 ** -16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 1 << 16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Returns zeros for a share of the elements, and the others divided by the share that is kept.

    Args:
        x: of any shape.
        p: share that is dropped.
        training: else nothing is dropped.
    """
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling() or type(x) is not Tensor:
        return F.dropout(x, p, training)
    return x * kept(x, p)


@torch.no_grad()
def kept(x: Tensor, p: float) -> Tensor:
    """Returns 0 for a share of the elements, and one over the share that is kept for the others.

    Args:
        x: of the shape and type that are wanted.
        p: share of zeros.
    """
    dropped = min(round(p * STEPS), STEPS - 1)
    count = x.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    keep = draws.view(torch.int16)[:count].view(x.shape) >= dropped - STEPS // 2
    return torch.where(keep, STEPS / (STEPS - dropped), 0.0).to(x.dtype)
