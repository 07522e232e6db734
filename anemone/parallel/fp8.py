"""Products in 8-bit floats: the linear layers of a network's blocks compute in e4m3 and e5m2, by torchao.

Weights, and with them checkpoints and archives, stay in the format they had; a layer rounds its input, weight and
output gradient on the way into each of its three products. Outside the blocks, and in routers of experts, nothing
changes: there rounding costs most and saves least (arXiv:2209.05433).
"""

import importlib.util
import logging
from typing import Literal

from torch import nn

from anemone.config import must
from anemone.errors import ConfigError
from anemone.parallel.plans import Plan, matching

log = logging.getLogger("anemone.parallel")

Recipe = Literal["tensorwise", "rowwise"]

MULTIPLE = 16
"""Widths that the products take are multiples of this."""


def convert(network: nn.Module, plan: Plan, recipe: Recipe, *, tensor_parallel: int = 1) -> list[str]:
    """Makes linear layers of a network's blocks compute in 8-bit floats; returns the names of those layers.

    A layer with a width that is no multiple of 16 on each process stays as it is, and a warning says so.

    Args:
        network: changed in place, before it is sharded; names of parameters stay.
        plan: names its blocks.
        recipe: one scale for a tensor, or one for each row.
        tensor_parallel: processes that layers will be divided over.

    Raises:
        ConfigError: torchao is missing, or no layer can be converted.
    """
    if importlib.util.find_spec("torchao") is None:
        raise ConfigError("`precision` fp8 needs torchao: pip install 'anemone[fp8]'.")
    must(recipe in ("tensorwise", "rowwise"), "precision", "fp8 or fp8-rowwise", value=recipe)
    from torchao.float8 import Float8LinearConfig
    from torchao.float8.float8_linear import Float8Linear

    config = Float8LinearConfig.from_recipe_name(recipe)
    layers = {
        f"{block_name}.{name}": layer
        for pattern in plan.blocks
        for block_name, block in matching(network, pattern)
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and not name.endswith("router")
    }
    fit = {name: layer for name, layer in layers.items() if _fits(layer, tensor_parallel)}
    for name, layer in fit.items():
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, Float8Linear.from_float(layer, config))
    if left := layers.keys() - fit.keys():
        log.warning("Stay in high precision, as a width is no multiple of %d: %s", MULTIPLE, ", ".join(sorted(left)))
    must(bool(fit), "precision", "one without fp8", value="fp8", hint="No linear layer of this network can take it.")
    return list(fit)


def _fits(layer: nn.Linear, parts: int) -> bool:
    return all(width % (MULTIPLE * parts) == 0 for width in layer.weight.shape)
