"""Rotary position embedding (arXiv:2104.09864), in the layout of the published Llama weights on Hugging Face.

The K numbers of a head are K / 2 pairs, number i with number i + K / 2. Pair i of the token at position p is turned by
the angle ``p * theta ** (-2 i / K)``, so that scores of two tokens depend on their distance alone.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from anemone.config import must
from anemone.types import Hidden, Rotations


@dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """Slower turning for texts longer than those of pre-training, as Llama 3.1 has it (arXiv:2407.21783).

    Pairs that turn often within ``original_len`` tokens keep their speed, pairs that turn seldom are slowed by
    ``factor``, and those between are blended.
    """

    factor: float = 8.0
    """By how much slow pairs are slowed."""

    low_freq_factor: float = 1.0
    """Pairs with fewer turns than this in ``original_len`` tokens are slowed in full."""

    high_freq_factor: float = 4.0
    """Pairs with more turns than this keep their speed."""

    original_len: int = 8192
    """Length of the texts of pre-training, in tokens."""

    def __post_init__(self) -> None:
        must(self.factor >= 1, "factor", "1 or more", value=self.factor)
        must(self.low_freq_factor > 0, "low_freq_factor", "above 0", value=self.low_freq_factor)
        above = self.high_freq_factor > self.low_freq_factor
        must(above, "high_freq_factor", "above `low_freq_factor`", value=self.high_freq_factor)
        must(self.original_len >= 1, "original_len", "1 or more", value=self.original_len)


def rotary(
    positions: Tensor, d_head: int, *, theta: float = 10_000.0, scaling: RotaryScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Computes the cosines and sines of all angles.

    Args:
        positions: (B, N), from 0.
        d_head: K, even.
        theta: the slowest pair turns about once in ``2 pi theta`` tokens.
        scaling: slower turning for long texts.

    Returns:
        Two tensors (B, N, K / 2), float32.
    """
    pairs = torch.arange(0, d_head, 2, device=positions.device, dtype=torch.int64).float() / d_head
    speed = 1.0 / theta**pairs  # radians per token
    if scaling is not None:
        turns = scaling.original_len * speed / (2 * math.pi)
        fast = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        fast = fast.clamp(0, 1)
        speed = speed * fast + speed / scaling.factor * (1 - fast)
    angles = positions[..., None].float() * speed
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs of each head by the angles of their token.

    Args:
        x: (B, N, H, K), queries or keys.
        cos: (B, N, K / 2), from `rotary`.
        sin: (B, N, K / 2).

    Returns:
        Like ``x``, contiguous.
    """
    cos, sin = cos.to(x.dtype).unsqueeze(2), sin.to(x.dtype).unsqueeze(2)  # (B, N, K / 2) -> (B, N, 1, K / 2)
    if torch.compiler.is_compiling():  # the compiler fuses the formula itself
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    turned: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return turned


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    (a, b), (to_a, to_b) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos, out=to_a).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=to_b).addcmul_(a, sin, value=sign)
    return out


class _Rotate(torch.autograd.Function):
    """The rotation, whose gradient is the rotation back: it keeps angles, and no states, for the backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Hidden[Tensor, "B N H K"], cos: Rotations[Tensor, "B N H' K'"], sin: Rotations[Tensor, "B N H' K'"]
    ) -> Hidden[Tensor, "B N H K"]:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin, -1), None, None
