"""Accelerators and what connects them: the numbers that predictions are made from.

Two kinds of numbers stand in the table. Those of data sheets: memory, bandwidths, peak rates. And what software gets of
them: the largest share of the peak that a matrix product was measured to reach, and the shares that attention kernels
reach. Sources are named in docs/planner.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from anemone.config import must, nearest

GB, GIB, TERA = 10**9, 2**30, 10**12


@dataclass(frozen=True, kw_only=True)
class GPU:
    """One accelerator in its machine."""

    name: str
    """As `--gpu` takes it."""

    memory: int
    """What a program can have of its memory, in bytes."""

    bandwidth: float
    """Of its memory, bytes a second."""

    peak: Mapping[str, float]
    """Rate of dense matrix products by type of number, operations a second; without sparsity."""

    reached: Mapping[str, float]
    """Largest share of the peak that a matrix product was measured to reach, by type of number."""

    sustained: Mapping[str, float]
    """Share of that which a whole training step reaches, under its power limit, by whose kernels: torch, or te
    (Transformer Engine). Fitted; docs/planner.md says to which runs."""

    attention: Mapping[str, tuple[float, float]]
    """Shares of the bf16 peak that fused causal attention reaches, forward and backward, by kernel: PyTorch's own, and
    that of Transformer Engine."""

    node: int = 8
    """Accelerators that are connected by the fast link."""

    fast: float
    """The link within a machine, bytes a second of one accelerator in one direction."""

    slow: float
    """The network between machines, bytes a second of one accelerator in one direction."""

    def rate(self, number: str, kernels: str) -> float:
        """Operations a second of a large matrix product inside a training step."""
        return self.peak[number] * self.reached[number] * self.sustained[kernels]

    def attending(self, kernels: str) -> tuple[float, float]:
        """Operations a second of causal attention, forward and backward."""
        forward, backward = self.attention[kernels]
        rate = self.peak["bf16"] * self.sustained[kernels]
        return forward * rate, backward * rate


HOPPER = {"bf16": 989 * TERA, "fp8": 1979 * TERA, "tf32": 494 * TERA, "fp32": 67 * TERA}
BLACKWELL = {"bf16": 2250 * TERA, "fp8": 4500 * TERA, "tf32": 1125 * TERA, "fp32": 80 * TERA}
GRACE_BLACKWELL = {"bf16": 2500 * TERA, "fp8": 5000 * TERA, "tf32": 1250 * TERA, "fp32": 80 * TERA}

A100 = GPU(
    name="a100-80gb",
    memory=int(79.15 * GIB),
    bandwidth=2.04e12,
    peak={"bf16": 312 * TERA, "tf32": 156 * TERA, "fp32": 19.5 * TERA},
    reached={"bf16": 0.869, "tf32": 0.85, "fp32": 0.9},
    sustained={"torch": 0.92, "te": 0.92},
    attention={"torch": (0.6, 0.5), "te": (0.6, 0.5)},
    fast=300 * GB,
    slow=25 * GB,
)
H100 = GPU(
    name="h100-80gb",
    memory=int(79.1 * GIB),
    bandwidth=3.35e12,
    peak=HOPPER,
    reached={"bf16": 0.803, "fp8": 0.709, "tf32": 0.75, "fp32": 0.8},
    sustained={"torch": 0.725, "te": 1.055},
    attention={"torch": (0.4, 0.33), "te": (0.6, 0.48)},
    fast=450 * GB,
    slow=50 * GB,
)
B200 = GPU(
    name="b200-180gb",
    memory=int(178.3 * GIB),
    bandwidth=8.0e12,
    peak=BLACKWELL,
    reached={"bf16": 0.776, "fp8": 0.763, "tf32": 0.7, "fp32": 0.8},
    sustained={"torch": 0.555, "te": 0.805},
    attention={"torch": (0.2, 0.16), "te": (0.6, 0.45)},
    fast=900 * GB,
    slow=50 * GB,
)
GRAND_TETON = {"torch": 0.72, "te": 0.72}
ULTRA = {"torch": 0.645, "te": 0.94}
TABLE = (
    A100,
    replace(A100, name="a100-40gb", memory=int(39.4 * GIB), bandwidth=1.555e12),
    H100,
    replace(H100, name="h100-96gb-500w", memory=int(94.5 * GIB), bandwidth=2.4e12, sustained=GRAND_TETON),
    replace(H100, name="h200-141gb", memory=int(139.8 * GIB), bandwidth=4.8e12),
    B200,
    replace(B200, name="b300-288gb", memory=int(275 * GIB), slow=100 * GB, sustained=ULTRA),
    replace(B200, name="gb200-186gb", memory=int(184 * GIB), peak=GRACE_BLACKWELL, node=72),
    replace(
        B200, name="gb300-288gb", memory=int(275 * GIB), peak=GRACE_BLACKWELL, node=72, slow=100 * GB, sustained=ULTRA
    ),
)
GPUS = {gpu.name: gpu for gpu in TABLE}
"""Accelerators by name."""

LINK_SHARE = 0.82
"""What collectives get of a link: a ring of 8 H200 reached 368 of 450 GB/s."""

LATENCY = {"fast": 5e-6, "slow": 15e-6}
"""Seconds until the first byte arrives over one link of a ring."""


def gpu_named(name: str) -> GPU:
    """Returns the accelerator of that name.

    Raises:
        ConfigError: there is none.
    """
    must(name in GPUS, "--gpu", f"one of {', '.join(GPUS)}", value=name, hint=nearest(name, GPUS).strip())
    return GPUS[name]
