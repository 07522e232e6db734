"""Settings of the optimisers, and which parameters they treat how.

``lr`` is the peak rate: each group keeps it as ``base_lr``, and the engine sets ``lr`` to ``base_lr`` times the
schedule's factor. Weight decay spares biases, norms and all other parameters with fewer than two axes.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from anemone.config import must
from anemone.nn.adapters import within
from anemone.training.optimizers import Lion, Muon, NovoGrad

OPTIMIZERS = {
    "adamw": "anemone.training.optim:AdamWConfig",
    "adafactor": "anemone.training.optim:AdafactorConfig",
    "muon": "anemone.training.optim:MuonConfig",
    "novograd": "anemone.training.optim:NovoGradConfig",
    "lion": "anemone.training.optim:LionConfig",
    "sgd": "anemone.training.optim:SGDConfig",
}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings that every optimiser has."""

    lr: float = 1e-3
    """Peak rate; the schedule multiplies it."""

    weight_decay: float = 0.0
    """How fast weights shrink towards zero, in units of the rate."""

    decay_vectors: bool = False
    """Whether biases and norms shrink, too."""

    rates: dict[str, float] = field(default_factory=dict)
    """Pattern of names of weights or modules -> what their rate is multiplied by, such as ``{encoder: 0.1}``; of
    several that fit, the last."""

    def __post_init__(self) -> None:
        must(0 < self.lr < math.inf, "lr", "above 0, and finite", value=self.lr)
        must(self.weight_decay >= 0, "weight_decay", "0 or more", value=self.weight_decay)
        for pattern, factor in self.rates.items():
            must(0 < factor < math.inf, f"rates.{pattern}", "above 0, and finite", value=factor)
        for name in ("betas", "momentum"):
            value = getattr(self, name, 0.0)
            inside = all(0 <= share < 1 for share in (value if isinstance(value, tuple) else (value,)))
            must(inside, name, "at least 0 and below 1", value=value)

    def groups(self, named: dict[str, Tensor]) -> list[dict[str, Any]]:
        """Parameter groups: those that decay, then the others, each by its rate and the mesh that it is spread over."""
        names = {name: name.removeprefix("network.") for name in named}
        kinds: dict[tuple[bool, float, object], list[Tensor]] = {}
        for name, p in named.items():
            factor = next((f for pattern, f in reversed(self.rates.items()) if within(names[name], [pattern])), 1.0)
            kinds.setdefault((p.ndim >= 2 or self.decay_vectors, factor, _mesh(p)), []).append(p)
        return [
            {
                "params": parameters,
                "lr": self.lr * factor,
                "base_lr": self.lr * factor,
                "weight_decay": self.weight_decay if decay else 0.0,
            }
            for (decay, factor, _), parameters in sorted(kinds.items(), key=lambda item: not item[0][0])
        ]


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimizerConfig):
    """Adam with decoupled weight decay (arXiv:1711.05101), torch's, in one fused pass.

    Example:
        >>> optimizer = AdamWConfig(lr=0.01, weight_decay=0.1).build(nn.Linear(3, 2))
        >>> [(len(g["params"]), g["base_lr"], g["weight_decay"]) for g in optimizer.param_groups]
        [(1, 0.01, 0.1), (1, 0.01, 0.0)]
    """

    weight_decay: float = 0.01
    """How fast weights shrink towards zero, in units of the rate."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Memory of the gradient's mean and of its square."""

    eps: float = 1e-8
    """Keeps the division finite."""

    def build(self, module: nn.Module) -> Optimizer:
        """Returns the optimiser of the module's trainable parameters."""
        return AdamW(self.groups(trainable(module)), betas=self.betas, eps=self.eps, fused=True)


@dataclass(frozen=True, kw_only=True)
class SGDConfig(OptimizerConfig):
    """Stochastic gradient descent, torch's.

    Example:
        >>> SGDConfig(lr=0.1, momentum=0.9, nesterov=True).build(nn.Linear(3, 2)).defaults["nesterov"]
        True
    """

    lr: float = 0.1
    """Peak rate; the schedule multiplies it."""

    weight_decay: float = 0.0
    """Added to the gradient, in units of the weight."""

    momentum: float = 0.0
    """Memory of the sum of gradients."""

    nesterov: bool = False
    """Whether the step looks ahead by the momentum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(not self.nesterov or self.momentum > 0, "momentum", "above 0 with nesterov", value=self.momentum)

    def build(self, module: nn.Module) -> Optimizer:
        """Returns the optimiser of the module's trainable parameters."""
        return SGD(self.groups(trainable(module)), momentum=self.momentum, nesterov=self.nesterov, foreach=True)


@dataclass(frozen=True, kw_only=True)
class AdafactorConfig(OptimizerConfig):
    """Adam whose second moment is kept as rows and columns (arXiv:1804.04235), torch's.

    The rate is relative to the root mean square of each weight.
    """

    lr: float = 0.01
    """Peak rate; the schedule multiplies it, and ``1 / sqrt(step)`` bounds it."""

    beta2_decay: float = -0.8
    """Memory of the squares at step t is ``1 - t ** beta2_decay``."""

    clip: float = 1.0
    """Largest root mean square of an update."""

    min_rms: float = 1e-3
    """Smallest root mean square of a weight that the rate is relative to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(self.beta2_decay <= 0, "beta2_decay", "0 or less", value=self.beta2_decay)
        must(self.clip >= 1, "clip", "1 or more", value=self.clip)

    def build(self, module: nn.Module) -> Optimizer:
        """Returns the optimiser of the module's trainable parameters.

        Raises:
            ConfigError: weights are sharded.
        """
        named = trainable(module)
        groups, spread = self.groups(named), any(_mesh(p) is not None for p in named.values())
        hint = "torch's Adafactor cannot compute the means of rows and columns that lie on several processes."
        rule = "adamw, lion, muon, novograd or sgd where weights are sharded"
        must(not spread, "optim.kind", rule, value="adafactor", hint=hint)
        return Adafactor(groups, beta2_decay=self.beta2_decay, eps=(None, self.min_rms), d=self.clip)


@dataclass(frozen=True, kw_only=True)
class NovoGradConfig(OptimizerConfig):
    """NovoGrad (arXiv:1905.11286), the optimiser of the Jasper and QuartzNet papers."""

    lr: float = 0.01
    """Peak rate; the schedule multiplies it."""

    weight_decay: float = 0.001
    """Added to the normalised gradient, in units of the weight."""

    betas: tuple[float, float] = (0.95, 0.98)
    """Memory of the momentum and of the gradient's squared norm; QuartzNet takes a shorter one of the norm, 0.5."""

    eps: float = 1e-8
    """Keeps the division finite."""

    def build(self, module: nn.Module) -> Optimizer:
        """Returns the optimiser of the module's trainable parameters."""
        return NovoGrad(self.groups(trainable(module)), betas=self.betas, eps=self.eps)


@dataclass(frozen=True, kw_only=True)
class LionConfig(OptimizerConfig):
    """Lion (arXiv:2302.06675)."""

    lr: float = 1e-4
    """Peak rate, 3 to 10 times smaller than AdamW's; the schedule multiplies it."""

    weight_decay: float = 0.1
    """How fast weights shrink towards zero, in units of the rate; 3 to 10 times larger than AdamW's."""

    betas: tuple[float, float] = (0.9, 0.99)
    """Share of the momentum in an update; memory of the momentum."""

    def build(self, module: nn.Module) -> Optimizer:
        """Returns the optimiser of the module's trainable parameters."""
        return Lion(self.groups(trainable(module)), betas=self.betas)


@dataclass(frozen=True, kw_only=True)
class MuonConfig(OptimizerConfig):
    """Muon (arXiv:2502.16982) for hidden matrices, AdamW for everything else, under one rate.

    A matrix is the weight of a linear layer or of a convolution over all channels, taken as (out, in * width): a
    1x1 convolution is a linear layer. Depthwise and grouped kernels mix no or few channels, so they go to AdamW, as do
    embeddings, vectors, and the layers named in ``adamw``.
    """

    weight_decay: float = 0.01
    """How fast weights shrink towards zero, in units of the rate."""

    momentum: float = 0.95
    """Memory of the gradient's mean, for matrices."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's memory of the gradient's mean and of its square, for the rest."""

    adamw: tuple[str, ...] = ("head",)
    """Parts of dotted names whose matrices go to AdamW: the layers at the ends of a network."""

    def build(self, module: nn.Module) -> Optimizer:
        """Returns the optimiser of the module's trainable parameters."""
        named = trainable(module)
        ends = set(self.adamw)
        matrices = {name for name in _matrices(module) if name in named and ends.isdisjoint(name.split("."))}
        others = self.groups({name: p for name, p in named.items() if name not in matrices})
        return Muon(
            self.groups({name: p for name, p in named.items() if name in matrices}),
            [group | {"betas": self.betas} for group in others],
            momentum=self.momentum,
        )


def check_rates(config: OptimizerConfig, module: nn.Module) -> None:
    """Raises unless each pattern of ``rates`` fits a weight that moves.

    Raises:
        ConfigError: one fits none; names it.
    """
    names = [name.removeprefix("network.") for name in trainable(module)]
    for pattern in config.rates:
        fits = any(within(name, [pattern]) for name in names)
        must(fits, "optim.rates", "of patterns that fit weights that move", value=pattern)


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that take a gradient, by name; one used twice comes once."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _mesh(p: Tensor) -> object:
    """The mesh that a parameter is spread over; None if it is whole. One list of tensors must not mix them."""
    return p.device_mesh if isinstance(p, DTensor) else None


def _matrices(module: nn.Module) -> list[str]:
    """Names of weights that map all inputs of a layer to all its outputs."""
    found = []
    for name, layer in module.named_modules():
        dense = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == 1
        if isinstance(layer, nn.Linear) or dense:
            found.append(f"{name}.weight".removeprefix("."))
    return found
