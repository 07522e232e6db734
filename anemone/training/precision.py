"""Precisions: in which number formats a step computes; the weights themselves always stay float32.

The engine owns them, so that a setting means the same everywhere or is refused: under ``16-mixed`` and ``bf16-mixed``
products run in the short format by autocast, and float16 gradients are scaled so that they neither vanish nor overflow.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch

from anemone.config import must

PrecisionName = Literal["32", "tf32", "16-mixed", "bf16-mixed"]


class Precision(NamedTuple):
    """What a precision asks of the hardware and of the engine."""

    short: torch.dtype | None = None
    """Format of products under autocast; None leaves them in float32."""

    scaled: bool = False
    """Whether gradients are scaled."""

    tf32: bool = False
    """Whether float32 products may drop 13 bits of their mantissa."""

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context that forwards run under."""
        return nullcontext() if self.short is None else torch.autocast(device.type, self.short)

    def prepare(self, device: torch.device) -> None:
        """Tells a GPU which float32 products are meant, for the whole process."""
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = self.tf32
            torch.backends.cudnn.allow_tf32 = self.tf32


PRECISIONS: dict[str, Precision] = {
    "32": Precision(),
    "tf32": Precision(tf32=True),
    "16-mixed": Precision(short=torch.float16, scaled=True),
    "bf16-mixed": Precision(short=torch.bfloat16),
}


def precision(name: str, device: torch.device) -> Precision:
    """Looks a precision up and refuses what the device does not have.

    Raises:
        ConfigError: an unknown name, or ``tf32`` where there are no TF32 units.
    """
    must(name in PRECISIONS, "precision", f"one of {sorted(PRECISIONS)}", value=name)
    found = PRECISIONS[name]
    if found.tf32:
        able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        hint = "TF32 is a format of the matrix units of NVIDIA GPUs since Ampere; nothing else can compute in it."
        must(able, "precision", f"32, 16-mixed or bf16-mixed on this device ({device.type})", value=name, hint=hint)
    return found
