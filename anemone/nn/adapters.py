"""Small weights beside large ones that stay as they are: low-rank changes of layers, and bottlenecks after modules.

Both hang on modules that exist, under a name of their own: ``encoder.layers.0.query.adapters.NAME.down``. The module
keeps its class, its weights and their names, so whatever knows the network by those (plans, archives, formats of
others) works as before; what the adapters add comes in after its forward. Several may hang on one module; `switch`
says which count.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anemone.config import must, nearest
from anemone.nn.activations import ACTIVATIONS
from anemone.nn.conv import FullConv
from anemone.types import ports

Activation = Literal["swish", "relu", "gelu", "tanh"]

HOLDER = "adapters"
"""The attribute of a module under which its adapters hang."""


class LowRank(nn.Module):
    """A change of rank r of a layer's weight, ``W + alpha / r * up down`` (LoRA, arXiv:2106.09685, equation 3).

    The first value of ``up`` is zero, so that the layer starts as it was. A convolution changes by one of its own
    kernel to r channels, and ``up`` of those at each frame.

    Args:
        layer: a linear layer, a convolution over time or an embedding.
        rank: r.
        alpha: what the change is multiplied by, times r.
        dropout: share of the inputs that ``down`` does not see in training.
    """

    def __init__(self, layer: nn.Module, *, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        weight = layer.weight
        assert isinstance(weight, Tensor)
        self.rank, self.scale, self.dropout = rank, alpha / rank, dropout
        outer = weight.shape[::-1] if isinstance(layer, nn.Embedding) else weight.shape
        self.down = nn.Parameter(weight.new_empty(rank, *outer[1:]))
        self.up = nn.Parameter(weight.new_empty(outer[0], rank))
        _begin(self)

    def changed(self, layer: nn.Module, x: Tensor, out: Tensor) -> Tensor:
        """Returns what the layer gives with its weight changed.

        Args:
            layer: that it hangs on.
            x: what the layer was given.
            out: what it gave.
        """
        if isinstance(layer, nn.Embedding):
            return out + self.scale * F.linear(F.embedding(x, self.down.T), self.up)
        x = F.dropout(x, self.dropout, self.training)
        if isinstance(layer, nn.Conv1d):
            frames_last = not isinstance(layer, FullConv)
            x = x if frames_last else x.transpose(1, 2)
            inner = F.conv1d(x, self.down, None, layer.stride, layer.padding, layer.dilation).transpose(1, 2)
            added = F.linear(inner, self.up)  # (B, T', r) -> (B, T', D)
            return out + self.scale * (added.transpose(1, 2) if frames_last else added)
        return out + self.scale * F.linear(F.linear(x, self.down), self.up)

    @torch.no_grad()
    def merge(self, layer: nn.Module) -> None:
        """Adds the change to the layer's weight."""
        change = self.scale * (self.up.double() @ self.down.double().flatten(1))
        weight = layer.weight
        assert isinstance(weight, Tensor)
        change = change.T if isinstance(layer, nn.Embedding) else change.view(weight.shape)
        weight.copy_(weight.double() + change)


class Bottleneck(nn.Module):
    """A narrow network after a module, added to what it gives: ``y + up f(down norm(y))`` (arXiv:1902.00751, figure 2).

    The first value of ``up`` is zero, so that the module starts as it was.

    Args:
        d_model: width of what the module gives, in its last axis.
        d: width inside.
        activation: f.
        norm: whether it sees its input with mean 0 and variance 1.
    """

    def __init__(self, d_model: int, *, d: int, activation: Activation = "swish", norm: bool = True) -> None:
        super().__init__()
        self.activation = activation
        self.norm = nn.LayerNorm(d_model) if norm else None
        self.down = nn.Parameter(torch.empty(d, d_model))
        self.up = nn.Parameter(torch.empty(d_model, d))
        _begin(self)

    def changed(self, layer: nn.Module, x: Tensor, out: Any) -> Any:
        """Returns what the module gave with the change added to it, or to the first where it gave several tensors.

        Args:
            layer: that it hangs on.
            x: what the module was given.
            out: what it gave.
        """
        y: Tensor = out if isinstance(out, Tensor) else out[0]
        inner = y if self.norm is None else self.norm(y)
        y = y + F.linear(ACTIVATIONS[self.activation](F.linear(inner, self.down)), self.up)
        if isinstance(out, Tensor):
            return y
        return type(out)(y, *out[1:]) if type(out) is not tuple else (y, *out[1:])


class Adapters(nn.ModuleDict):
    """The adapters of one module, by name, and the names of those that count, in ``enabled``."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled: tuple[str, ...] = ()


def _begin(adapter: nn.Module) -> None:
    """Gives the weights of an adapter their first values, where they have memory."""
    for name, parameter in adapter.named_parameters():
        if not parameter.is_meta:
            parameter.data.copy_(first_value(name, parameter.shape))


def first_value(name: str, shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
    """Draws the first value of a weight of an adapter.

    Args:
        name: of the weight, such as ``x.adapters.english.down``.
        shape: of it.
        generator: where random numbers come from, and on which device; torch's own by default.
    """
    device = torch.device("cpu") if generator is None else generator.device
    if name.endswith("up") or name.endswith("norm.bias"):
        return torch.zeros(shape, device=device)
    if name.endswith("norm.weight"):
        return torch.ones(shape, device=device)
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(shape, device=device).uniform_(-bound, bound, generator=generator)


# --- hanging on, switching, merging -----------------------------------------------------------------------------------


def attach(
    network: nn.Module, name: str, targets: Sequence[str], *, make: Callable[[nn.Module], nn.Module], layers: bool
) -> list[str]:
    """Hangs new adapters on modules and switches them on; returns the names of the modules.

    Args:
        network: whose modules.
        name: of the adapters.
        targets: patterns of names, see `fitting`.
        make: from a module to what hangs on it.
        layers: whether only linear layers, convolutions over time and embeddings are meant: those within the modules
            that fit, where these are none themselves.

    Raises:
        ConfigError: a pattern fits no module, or one that cannot be changed so.
    """
    free = re.fullmatch(r"[a-zA-Z]\w*", name) is not None and name not in dir(Adapters)
    must(free, "name", "a word of letters, digits and underscores", value=name)
    found: dict[str, nn.Module] = {}
    counts = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    tied = {number for number, count in counts.items() if count > 1}
    for pattern in targets:
        fit = {n: m for n, m in network.named_modules() if n and not _inner(n) and fitting(n, [pattern])}
        fit = {n: m for whole, part in fit.items() for n, m in _layers(whole, part, tied)} if layers else fit
        names = [n for n, _ in network.named_modules() if n and not _inner(n)]
        must(
            bool(fit),
            "targets",
            "patterns that fit modules of the network",
            value=pattern,
            hint=nearest(pattern, names).strip(),
        )
        found |= fit
    for path, module in found.items():
        _refuse(network, path, module, layers)
        if HOLDER not in dict(module.named_children()):
            module.add_module(HOLDER, Adapters())
            module.register_forward_hook(_add, with_kwargs=True)
        holder = module.get_submodule(HOLDER)
        assert isinstance(holder, Adapters)
        must(name not in holder, "name", f"a new one, as `{path}` has adapters of that name", value=name)
        holder[name] = make(module)
        holder.enabled = (*holder.enabled, name)
        holder.train(module.training)
    return list(found)


def _add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """Adds what the adapters of a module that are on make of its input and output."""
    holder = module._modules[HOLDER]
    x = args[0] if args else next(iter(kwargs.values()))
    for name in holder.enabled:  # type: ignore[union-attr]
        out = holder[name].changed(module, x, out)  # type: ignore[index]
    return out


def _inner(name: str) -> bool:
    """Whether a module is an adapter, or a part of one."""
    return HOLDER in name.split(".")


def _layers(name: str, module: nn.Module, tied: Collection[int]) -> Iterator[tuple[str, nn.Module]]:
    """The layers within a module that `LowRank` can change, but for those of tied weights; or the module itself."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
        yield name, module
        return
    for inner, layer in module.named_modules():
        plain = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv1d) and _changeable(layer))
        if plain and not _inner(inner) and id(layer.weight) not in tied:
            yield f"{name}.{inner}", layer


def _changeable(layer: nn.Conv1d) -> bool:
    """Whether a convolution is computed as `LowRank` does."""
    usual = type(layer).forward in (nn.Conv1d.forward, FullConv.forward)
    return usual and layer.groups == 1 and layer.padding_mode == "zeros"


def _refuse(network: nn.Module, path: str, module: nn.Module, layers: bool) -> None:
    if not layers:
        return
    able = not isinstance(module, nn.Conv1d) or _changeable(module)
    must(able, "targets", "without convolutions in groups, or with a forward of their own", value=path)
    owners = [n for n, p in network.named_parameters(remove_duplicate=False) if p is module.weight]
    must(len(owners) == 1, "targets", f"without tied weights, as {', '.join(owners)}", value=path)


def holders(network: nn.Module) -> Iterator[tuple[str, nn.Module, Adapters]]:
    """Yields name, module and adapters of all modules that have some."""
    for name, module in network.named_modules():
        holder = module._modules.get(HOLDER)
        if isinstance(holder, Adapters):
            yield name, module, holder


def switch(network: nn.Module, names: Iterable[str]) -> None:
    """Makes the adapters of these names count, in this order, and no others.

    Raises:
        ConfigError: there are none of a name.
    """
    names, there = list(names), adapter_names(network)
    for name in names:
        must(name in there, "names", f"out of {there}", value=name, hint=nearest(name, there).strip())
    for _, _, holder in holders(network):
        holder.enabled = tuple(name for name in names if name in holder)


def adapter_names(network: nn.Module) -> list[str]:
    """The names of all adapters."""
    return list(dict.fromkeys(name for _, _, holder in holders(network) for name in holder))


def detach(network: nn.Module, name: str) -> None:
    """Takes the adapters of a name away."""
    for _, _, holder in holders(network):
        if name in holder:
            del holder[name]
            holder.enabled = tuple(other for other in holder.enabled if other != name)
    _tidy(network)


def merge(network: nn.Module) -> None:
    """Adds the low-rank changes that are on to their layers' weights, and takes them away; bottlenecks stay."""
    for _, module, holder in list(holders(network)):
        for name in holder.enabled:
            adapter = holder[name]
            if isinstance(adapter, LowRank):
                adapter.merge(module)
                del holder[name]
        holder.enabled = tuple(name for name in holder.enabled if name in holder)
    _tidy(network)


def _tidy(network: nn.Module) -> None:
    """Takes away what holds no adapters any more."""
    for _, module, holder in list(holders(network)):
        if not len(holder):
            del module._modules[HOLDER]
            for key in [key for key, hook in module._forward_hooks.items() if hook is _add]:
                del module._forward_hooks[key]
                module._forward_hooks_with_kwargs.pop(key, None)


def width_of(module: nn.Module) -> int:
    """The width of what a module gives, in its last axis, as it says itself.

    Raises:
        ConfigError: it does not say.
    """
    given = next(iter(ports(module).outputs.values()), None)
    said = given.sizes[-1][1] if given else None
    width = vars(module).get("out_features") or said or vars(module).get("d_model")
    rule = "modules that say their width (`out_features`, a port, or `d_model`)"
    must(isinstance(width, int), "targets", rule, value=type(module).__name__)
    assert isinstance(width, int)
    return width


# --- patterns ---------------------------------------------------------------------------------------------------------


def fitting(name: str, patterns: Iterable[str]) -> bool:
    """Whether a dotted name fits one of the patterns: ``*`` is any text within a part, ``**`` any number of parts.

    Example:
        >>> fitting("encoder.layers.0.query", ["encoder.layers.*.query"]), fitting("a.b.query", ["**.query"])
        (True, True)
    """
    return any(re.fullmatch(_regex(pattern), name) for pattern in patterns)


def within(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name, or one of the modules it lies in, fits a pattern."""
    parts = name.split(".")
    return any(fitting(".".join(parts[:i]), patterns) for i in range(1, len(parts) + 1))


def _regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*\*", ".+").replace(r"\*", "[^.]*")
