"""Learning-rate schedules: pure functions from a step to a factor of the optimiser's rate.

A schedule has no state: the factor of step 700 is the same whether a run came there in one go or was resumed three
times. Steps count from 0. All schedules but Noam warm up alike, by ``(step + 1) / (warmup + 1)``, so the first step
already learns and the first step after the warm-up has the full rate.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from anemone.config import must

Schedule = Callable[[int], float]

SCHEDULES = {
    "constant": "anemone.training.schedules:ConstantConfig",
    "cosine": "anemone.training.schedules:CosineConfig",
    "polynomial": "anemone.training.schedules:PolynomialConfig",
    "inverse_sqrt": "anemone.training.schedules:InverseSqrtConfig",
    "noam": "anemone.training.schedules:NoamConfig",
    "wsd": "anemone.training.schedules:WSDConfig",
}

DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
    "square": lambda t: (1 - t) ** 2,
    "one_minus_sqrt": lambda t: 1 - math.sqrt(t),
}


@dataclass(frozen=True, kw_only=True)
class WarmupConfig:
    """Settings that every schedule has."""

    warmup_steps: int = 0
    """Steps of linear warm-up."""

    warmup_ratio: float | None = None
    """The same as a share of all steps; give one of the two."""

    def __post_init__(self) -> None:
        must(self.warmup_steps >= 0, "warmup_steps", "0 or more", value=self.warmup_steps)
        ratio = self.warmup_ratio
        must(ratio is None or 0 <= ratio <= 1, "warmup_ratio", "between 0 and 1", value=ratio)
        both = ratio is not None and self.warmup_steps > 0
        must(not both, "warmup_ratio", "left out where `warmup_steps` is given", value=ratio)

    def warmup(self, total_steps: int) -> int:
        """Number of warm-up steps of a run of ``total_steps``."""
        return self.warmup_steps if self.warmup_ratio is None else int(self.warmup_ratio * total_steps)


@dataclass(frozen=True, kw_only=True)
class ConstantConfig(WarmupConfig):
    """The full rate after the warm-up."""

    def build(self, total_steps: int) -> Schedule:
        """Returns the schedule of a run of ``total_steps``."""
        return _warm(self.warmup(total_steps), lambda step: 1.0)


@dataclass(frozen=True, kw_only=True)
class CosineConfig(WarmupConfig):
    """Half a cosine from the full rate down to ``floor`` (arXiv:1608.03983, without restarts).

    Example:
        >>> schedule = CosineConfig(warmup_steps=1, floor=0.1).build(total_steps=11)
        >>> [round(schedule(step), 3) for step in (0, 1, 6, 11, 50)]
        [0.5, 1.0, 0.55, 0.1, 0.1]
    """

    floor: float = 0.0
    """The factor at the end."""

    def build(self, total_steps: int) -> Schedule:
        """Returns the schedule of a run of ``total_steps``."""
        warmup = self.warmup(total_steps)
        return _warm(warmup, _fall(warmup, total_steps, self.floor, DECAYS["cosine"]))


@dataclass(frozen=True, kw_only=True)
class PolynomialConfig(WarmupConfig):
    """``(1 - t) ** power`` from the full rate down to ``floor``, where t is the share of the decay that is done."""

    power: float = 1.0
    """1 falls along a line, 2 along a parabola."""

    floor: float = 0.0
    """The factor at the end."""

    def build(self, total_steps: int) -> Schedule:
        """Returns the schedule of a run of ``total_steps``."""
        warmup = self.warmup(total_steps)
        return _warm(warmup, _fall(warmup, total_steps, self.floor, lambda t: (1 - t) ** self.power))


@dataclass(frozen=True, kw_only=True)
class InverseSqrtConfig(WarmupConfig):
    """``sqrt((warmup + 1) / (step + 1))`` after the warm-up; never ends, so a run can be prolonged."""

    floor: float = 0.0
    """The smallest factor after the warm-up."""

    def build(self, total_steps: int) -> Schedule:
        """Returns the schedule of a run of ``total_steps``."""
        warmup = self.warmup(total_steps)
        return _warm(warmup, lambda step: max(self.floor, math.sqrt((warmup + 1) / (step + 1))))


@dataclass(frozen=True, kw_only=True)
class NoamConfig(WarmupConfig):
    """``d_model ** -0.5 * min(step ** -0.5, step * warmup ** -1.5)`` (arXiv:1706.03762, equation 3).

    The rate of the optimiser is a multiplier here, usually between 1 and 5.
    """

    d_model: int
    """Width of the model."""

    floor: float = 0.0
    """The smallest factor after the warm-up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(self.d_model >= 1, "d_model", "1 or more", value=self.d_model)

    def build(self, total_steps: int) -> Schedule:
        """Returns the schedule of a run of ``total_steps``."""
        warmup = max(1, self.warmup(total_steps))

        def factor(step: int) -> float:
            count = max(1, step)
            value: float = self.d_model**-0.5 * min(count**-0.5, count * warmup**-1.5)
            return max(self.floor, value) if step > warmup else value

        return factor


@dataclass(frozen=True, kw_only=True)
class WSDConfig(WarmupConfig):
    """Warm-up, stable, decay: the full rate until the last ``decay_ratio`` of the run (arXiv:2405.18392)."""

    decay_ratio: float = 0.2
    """Share of all steps over which the rate falls."""

    decay_steps: int | None = None
    """The same in steps; goes before ``decay_ratio``."""

    decay: Literal["linear", "cosine", "square", "one_minus_sqrt"] = "linear"
    """How it falls."""

    floor: float = 0.0
    """The factor at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(0 <= self.decay_ratio <= 1, "decay_ratio", "between 0 and 1", value=self.decay_ratio)
        must(self.decay_steps is None or self.decay_steps >= 0, "decay_steps", "0 or more", value=self.decay_steps)

    def build(self, total_steps: int) -> Schedule:
        """Returns the schedule of a run of ``total_steps``."""
        length = round(self.decay_ratio * total_steps) if self.decay_steps is None else self.decay_steps
        warmup = self.warmup(total_steps)
        return _warm(warmup, _fall(max(warmup, total_steps - length), total_steps, self.floor, DECAYS[self.decay]))


def _warm(warmup: int, after: Schedule) -> Schedule:
    """Linear warm-up, then ``after``."""
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else after(step)


def _fall(start: int, end: int, floor: float, shape: Callable[[float], float]) -> Schedule:
    """1 before step ``start``, then ``shape`` down to ``floor`` at step ``end`` and after."""
    return lambda step: floor + (1 - floor) * shape(min(1.0, max(0, step - start) / max(1, end - start)))
