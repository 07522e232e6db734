"""What every speech encoder gives, and which frames of it are valid."""

from typing import NamedTuple

import torch
from torch import Tensor

from anemone.types import Acoustic, Frames


class Encoded(NamedTuple):
    """States of an encoder of width ``d_model``, and how many frames of each are valid."""

    x: Acoustic[Tensor, "B T' D={self.d_model}"]
    x_len: Frames[Tensor, "B"]


class Tapped(NamedTuple):
    """States of an encoder of width ``d_model``, valid frames, and the states of some inner layers, in order."""

    x: Acoustic[Tensor, "B T' D={self.d_model}"]
    x_len: Frames[Tensor, "B"]
    inner: Acoustic[Tensor, "C={self.num_taps} B T' D={self.d_model}"]


def keep_mask(x_len: Tensor, num_frames: int) -> Tensor:
    """Returns (B, T, 1) bool, True on the valid frames.

    Args:
        x_len: valid frames per item, (B,).
        num_frames: T.
    """
    return (torch.arange(num_frames, device=x_len.device) < x_len[:, None]).unsqueeze(2)


def key_mask(x_len: Tensor, num_frames: int) -> Tensor:
    """Returns `keep_mask` as attention takes it: (B, 1, 1, T), True on the keys that every head and query sees.

    Args:
        x_len: valid frames per item, (B,).
        num_frames: T.
    """
    return keep_mask(x_len, num_frames)[:, None].transpose(2, 3)
