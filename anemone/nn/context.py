"""Which frames each frame sees: those in a context around it, or in chunks."""

import torch
from torch import Tensor

EVERY = 1 << 20  # frames, as many as a context without an end has


def in_context(num_frames: int, context: tuple[int, int] | Tensor, chunked: bool, device: torch.device) -> Tensor:
    """Which frames each frame sees: (1, T, T), bool.

    Args:
        num_frames: T.
        context: frames before and after each, -1 for all.
        chunked: in chunks of one more than the frames after, which see themselves and whole chunks before.
        device: where.
    """
    ends = context if isinstance(context, Tensor) else torch.tensor(context, device=device)
    past, future = ends.where(ends >= 0, EVERY)
    place = torch.arange(num_frames, device=device)
    if chunked:
        unit = torch.where(ends[1] >= 0, future + 1, 1)
        distance = (place[:, None] // unit) - (place // unit)
        future = torch.where(ends[1] >= 0, 0, EVERY)
        past = past // unit
    else:
        distance = place[:, None] - place
    seen: Tensor = (distance <= past) & (distance >= -future)
    return seen.unsqueeze(0)
