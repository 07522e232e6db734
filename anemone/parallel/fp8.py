"""Products in 8-bit floats: the linear layers of a network's blocks round their operands to e4m3 and e5m2.

Each of a layer's three products takes its two operands in 8 bits, scaled to the format's range by their largest number,
and adds up in higher precision (arXiv:2209.05433). Weights stay as they were between products, and so do checkpoints
and archives. Outside the blocks (embedding, head), in routers, and in the grouped products of experts nothing is
rounded: the first cost the most accuracy for the least time, and for the last there is no kernel.

    tensorwise          torchao, one scale for a tensor
    rowwise             torchao, one for each row, a power of two: less noise, more time
    transformer_engine  NVIDIA's library, one scale for a tensor; GPUs only
"""

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from anemone.config import must
from anemone.errors import ConfigError
from anemone.parallel.plans import Plan, find, matching

log = logging.getLogger("anemone.parallel")

Recipe = Literal["tensorwise", "rowwise", "transformer_engine"]

MULTIPLE = 16
"""Widths of products are multiples of this."""

LIBRARIES = {
    "torchao": "pip install 'anemone[fp8]'",
    "transformer_engine": "pip install 'anemone[te]' on a machine with CUDA, or take fp8 or fp8-rowwise, by torchao",
}
"""What computes, and how to come by it."""


def convert(network: nn.Module, plan: Plan, recipe: Recipe, *, tensor_parallel: int = 1) -> list[str]:
    """Makes linear layers of a network's blocks compute in 8-bit floats; returns their names.

    A layer with a width that is no multiple of 16 on each process stays as it is, and a warning says so.

    Args:
        network: changed in place, before it is sharded; parameters and their names stay.
        plan: names its blocks.
        recipe: see above.
        tensor_parallel: processes that layers will be divided over.

    Raises:
        ConfigError: the library is missing, cannot do it, or no layer can be converted.
    """
    layers = {
        f"{at}.{name}": layer
        for at, block in matching(network, *plan.blocks)
        for name, layer in block.named_modules()
        if type(layer) is nn.Linear
    }
    fit = {name: layer for name, layer in layers.items() if _fits(layer, tensor_parallel)}
    must(bool(fit), "precision", f"one without fp8 for {type(network).__name__}", value="fp8", hint=NOTHING)
    make = _transformer_engine(tensor_parallel) if recipe == "transformer_engine" else _torchao(recipe)
    for name, layer in fit.items():
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, make(layer))
    if left := sorted(layers.keys() - fit.keys()):
        log.warning("No fp8 for layers with a width that is no multiple of %d: %s.", MULTIPLE, ", ".join(left))
    if find(network, plan.experts):
        log.warning("No fp8 for the grouped products of experts; they compute in bfloat16.")
    return list(fit)


NOTHING = f"No linear layer within its blocks has widths that are multiples of {MULTIPLE}."


def _fits(layer: nn.Linear, parts: int) -> bool:
    """Whether both widths allow it, whichever of them will be divided."""
    return all(width % (MULTIPLE * parts) == 0 for width in layer.weight.shape)


def _need(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        message = f"`precision` asks for {library}, which is not installed: {LIBRARIES[library]}."
        raise ConfigError(message, path="precision")


def _torchao(recipe: str) -> Callable[[nn.Linear], nn.Module]:
    """What makes a layer of torchao out of one of PyTorch's."""
    _need("torchao")
    with _quiet():
        from torchao.float8 import Float8LinearConfig
        from torchao.float8.float8_linear import Float8Linear
    # GPUs want the number of tokens, over which gradients of weights add up, to be a multiple of 16, too
    config = replace(Float8LinearConfig.from_recipe_name(recipe), pad_inner_dim=True)

    def make(layer: nn.Linear) -> nn.Module:
        own: nn.Module = Float8Linear.from_float(layer, config)
        own.register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))  # what has a scale by row cannot move
        return own

    return make


@contextmanager
def _quiet() -> Iterator[None]:
    """Logs nothing: torchao tells of every kernel for another machine that it cannot load."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _transformer_engine(tensor_parallel: int) -> Callable[[nn.Linear], nn.Module]:
    """What makes a layer of Transformer Engine out of one of PyTorch's; never run without a GPU."""
    must(tensor_parallel == 1, "parallel.tp", "1 with `precision` fp8-te", value=tensor_parallel)
    _need("transformer_engine")
    te: Any = importlib.import_module("transformer_engine.pytorch")
    recipes: Any = importlib.import_module("transformer_engine.common.recipe")
    scaling = recipes.Float8CurrentScaling()
    stateless = {name: getattr(nn.Module, name) for name in ("get_extra_state", "set_extra_state")}
    linear: Any = type("Linear", (te.Linear,), stateless)  # so that checkpoints hold the weights alone

    def make(layer: nn.Linear) -> nn.Module:
        own: nn.Module = linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        own.weight, own.bias = layer.weight, layer.bias
        forward = own.forward

        def rounded(x: Any) -> Any:
            with te.fp8_autocast(enabled=True, fp8_recipe=scaling):
                return forward(x)

        own.forward = rounded
        return own

    return make
