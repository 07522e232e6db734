"""Precisions: in which number formats a step computes; the weights that the optimizer moves always stay float32.

The engine owns them, so that a setting means the same everywhere or is refused:

    32           all in float32
    tf32         float32 products drop 13 bits of their mantissa (GPUs since Ampere)
    16-mixed     products in float16 by autocast; losses are scaled so that gradients neither vanish nor overflow
    bf16-mixed   products in bfloat16 by autocast
    bf16-true    forwards and backwards see bfloat16 copies of the weights; gradients are summed in float32
    fp8          bf16-true, and the products of linear layers in 8-bit floats, with one scale for a tensor
    fp8-rowwise  the same, with a scale for each row
    fp8-te       fp8 by NVIDIA's Transformer Engine in place of torchao (GPUs only, an extra of its own)
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from anemone.config import must
from anemone.parallel.fp8 import Recipe
from anemone.parallel.gradients import local

PrecisionName = Literal["32", "tf32", "16-mixed", "bf16-mixed", "bf16-true", "fp8", "fp8-rowwise", "fp8-te"]


class Precision(NamedTuple):
    """What a precision asks of the hardware and of the engine."""

    short: torch.dtype | None = None
    """Format of products under autocast; None leaves them in float32."""

    scaled: bool = False
    """Whether gradients are scaled."""

    tf32: bool = False
    """Whether float32 products may drop 13 bits of their mantissa."""

    weights: torch.dtype | None = None
    """Format that weights, states and gradients have within forwards and backwards: ``short`` of `parallelize`, which
    keeps float32 masters beside the copies; None leaves them in float32."""

    fp8: Recipe | None = None
    """How linear layers round to 8-bit floats: ``fp8`` of `parallelize`; None leaves them alone."""

    capability: tuple[int, int] = (0, 0)
    """The least compute capability of an NVIDIA GPU that has the format."""

    def autocast(self, device: torch.device, *, laid_out: bool = True) -> AbstractContextManager[object]:
        """The context that forwards run under.

        Args:
            device: of the network.
            laid_out: whether the network went through `parallelize`, and so has short copies of its weights where they
                are asked for; else products are short.
        """
        short = self.short if laid_out else self.short or self.weights
        return nullcontext() if short is None else torch.autocast(device.type, short)

    def prepare(self, device: torch.device) -> None:
        """Tells a GPU which float32 products are meant, for the whole process.

        PyTorch has an older and a newer way to say so, and raises where they are mixed; Lightning asks the older way.
        """
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = self.tf32


PRECISIONS: dict[str, Precision] = {
    "32": Precision(),
    "tf32": Precision(tf32=True, capability=(8, 0)),
    "16-mixed": Precision(short=torch.float16, scaled=True),
    "bf16-mixed": Precision(short=torch.bfloat16),
    "bf16-true": Precision(weights=torch.bfloat16),
    "fp8": Precision(weights=torch.bfloat16, fp8="tensorwise", capability=(8, 9)),
    "fp8-rowwise": Precision(weights=torch.bfloat16, fp8="rowwise", capability=(9, 0)),
    "fp8-te": Precision(weights=torch.bfloat16, fp8="transformer_engine", capability=(8, 9)),
}


GPU_ONLY = {
    "tf32": "TF32 is a format of the matrix units of NVIDIA GPUs since Ampere; nothing else can compute in it.",
    "fp8-te": "Transformer Engine computes on NVIDIA GPUs only; torchao computes fp8 and fp8-rowwise here, too.",
}
"""Precisions that only GPUs have, and why."""


def precision(name: str, device: torch.device) -> Precision:
    """Looks a precision up and refuses what the device does not have.

    Raises:
        ConfigError: an unknown name, or a format that the device cannot compute in.
    """
    must(name in PRECISIONS, "precision", f"one of {sorted(PRECISIONS)}", value=name)
    found = PRECISIONS[name]
    if device.type != "cuda" and name in GPU_ONLY:
        rule = f"32, 16-mixed, bf16-mixed, bf16-true, fp8 or fp8-rowwise on this device ({device.type})"
        must(False, "precision", rule, value=name, hint=GPU_ONLY[name])
    if device.type == "cuda":
        has = torch.cuda.get_device_capability(device)
        hint = f"Its format needs compute capability {found.capability}, and this GPU has {has}."
        must(has >= found.capability, "precision", "one that this GPU computes in", value=name, hint=hint)
    return found


class Scaler:
    """The factor of float16 losses: halved when a gradient overflows, doubled after enough good steps.

    The caller says whether there was an overflow, and says so from numbers that all ranks share; so the factor is the
    same on all of them, whichever part of the gradient each holds (arXiv:1710.03740, section 3.2).

    Args:
        enabled: without it the factor is 1, always.
        init_scale: the first factor.
        growth_interval: good steps in a row after which it doubles.
    """

    def __init__(self, *, enabled: bool = True, init_scale: float = 65536.0, growth_interval: int = 2000) -> None:
        self.enabled, self.growth_interval = enabled, growth_interval
        self.factor = init_scale if enabled else 1.0
        self.good = 0
        """Steps in a row without an overflow."""

    def scale(self, loss: Tensor) -> Tensor:
        """Returns what to go backward from."""
        return loss * self.factor if self.enabled else loss

    @torch.no_grad()
    def unscale(self, gradients: list[Tensor]) -> None:
        """Divides gradients by the factor, in place; of one that is divided over ranks, the part that is here."""
        if self.enabled and gradients:
            torch._foreach_mul_([local(gradient) for gradient in gradients], 1 / self.factor)

    def update(self, overflow: bool) -> None:
        """Chooses the factor of the next step.

        Args:
            overflow: whether some gradient, on any rank, was not finite.
        """
        if not self.enabled:
            return
        self.good = 0 if overflow else self.good + 1
        if overflow:
            self.factor /= 2
        elif self.good == self.growth_interval:
            self.factor, self.good = self.factor * 2, 0

    def state_dict(self) -> dict[str, Any]:
        """Factor and good steps; nothing where it is not enabled."""
        return {"scale": self.factor, "good": self.good} if self.enabled else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state; an empty one changes nothing."""
        if self.enabled and state:
            self.factor, self.good = float(state["scale"]), int(state["good"])
