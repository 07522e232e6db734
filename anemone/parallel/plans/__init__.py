"""How networks are laid out over a mesh: one table for each architecture, found by the name of its class."""

import fnmatch
import operator
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import nn

from anemone.config import load_class

Style = Literal["embedding", "norm", "whole", "column", "row", "logits", "column_gathered"]


class Plan(NamedTuple):
    """What parallel training knows of an architecture. In patterns of names ``*`` stands for one part."""

    blocks: tuple[str, ...]
    """Modules that are sharded, recomputed and compiled one by one."""

    tensor: Mapping[str, Style] = MappingProxyType({})
    """How matrices, and what lies between them, are divided under tensor parallelism; see `anemone.parallel.tensor`."""

    divides: Mapping[str, str] = MappingProxyType({})
    """Settings that must be multiples of ``tp``, and where the network keeps their numbers."""

    layers: str = ""
    """The ModuleDict whose entries pipeline stages share out; empty where stages are not possible."""

    first: tuple[str, ...] = ()
    """Modules that only the first stage has."""

    last: tuple[str, ...] = ()
    """Modules that only the last stage has."""

    cores: tuple[str, ...] = ()
    """Modules where tokens of a sequence meet; context parallelism puts others there."""

    heads: str = ""
    """Where a network with cores keeps the number of their heads."""

    experts: tuple[str, ...] = ()
    """Modules that hold the weights of the experts of one layer."""


PLANS = {
    "Conformer": "anemone.parallel.plans.conformer:PLAN",
    "Llama": "anemone.parallel.plans.llama:PLAN",
    "QuartzNet": "anemone.parallel.plans.quartznet:PLAN",
    "Wav2Vec2": "anemone.parallel.plans.wav2vec2:PLAN",
    "Whisper": "anemone.parallel.plans.wav2vec2:WHISPER",
    "MatchboxNet": "anemone.parallel.plans.quartznet:PLAN",
    "Citrinet": "anemone.parallel.plans.citrinet:PLAN",
    "Jasper": "anemone.parallel.plans.jasper:PLAN",
}
"""Name of a class -> its plan."""


class Planned(NamedTuple):
    """A part of a network that has a plan."""

    name: str
    module: nn.Module
    plan: Plan


def find_plans(network: nn.Module) -> list[Planned]:
    """Returns the parts of a network whose classes have plans, the network itself among them.

    Args:
        network: of a task.
    """
    found = [(name, module, _plan_name(module)) for name, module in network.named_modules()]
    return [Planned(name, module, load_class(PLANS[plan])) for name, module, plan in found if plan]


def _plan_name(module: nn.Module) -> str:
    """The first of its classes that has a plan; FSDP puts classes of its own before them."""
    return next((cls.__name__ for cls in type(module).__mro__ if cls.__name__ in PLANS), "")


def matching(network: nn.Module, *patterns: str) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules whose name fits a pattern, and the name; pattern by pattern, in order.

    Example:
        >>> net = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU()))
        >>> [name for name, _ in matching(net, "*.0")]
        ['0.0', '1.0']

    Args:
        network: whose modules.
        *patterns: names with ``*`` for one part.
    """
    for wanted in (pattern.split(".") for pattern in patterns):
        for name, module in network.named_modules():
            parts = name.split(".")
            if len(parts) == len(wanted) and all(fnmatch.fnmatchcase(a, b) for a, b in zip(parts, wanted, strict=True)):
                yield name, module


def number_of(network: nn.Module, attribute: str) -> int:
    """Returns a number that a network keeps.

    Args:
        network: planned.
        attribute: its dotted name, as a plan gives it.
    """
    found: int = operator.attrgetter(attribute)(network)
    return found


def find(network: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Returns the modules whose name fits one of the patterns, as `matching` yields them."""
    return [module for _, module in matching(network, *patterns)]
