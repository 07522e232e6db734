"""Optimisers torch does not have: NovoGrad, Lion, and Muon for matrices with AdamW for the rest.

Each is one `torch.optim.Optimizer`, whose state is made of tensors only. Updates run over lists of tensors
(``torch._foreach_*``), since in a small net the loop in Python costs more than the arithmetic; on a CPU over short
lists, since in a large net the trips to memory cost most.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import AdamW, Optimizer

from anemone.parallel.gradients import groups_of, local

Group = dict[str, Any]
Closure = Callable[[], float]

CACHED = 200_000
"""Numbers of weights whose update stays in the caches of a CPU: measured, the same from 50,000 on, slower above."""


class NovoGrad(Optimizer):
    """Normalises each tensor's gradient by a running norm of it, then takes a step with momentum (arXiv:1905.11286).

    For the gradient g of a weight w: ``v = b2 * v + (1 - b2) * |g|^2``, starting at ``|g|^2``;
    ``m = b1 * m + g / (sqrt(v) + eps) + weight_decay * w``; ``w = w - lr * m``.

    Args:
        params: parameters, or groups of them.
        lr: rate of the step.
        betas: (b1, b2).
        eps: keeps the division finite.
        weight_decay: added to the normalised gradient.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        *,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """Moves the weights once; returns what ``closure`` returns."""
        loss = _evaluate(closure)
        for group, weights, gradients in _pieces(self.param_groups):
            squares = squared_norms(gradients)
            for p, square in zip(weights, squares, strict=True):
                if not self.state[p]:
                    self.state[p] = {"momentum": torch.zeros_like(p), "squared_norm": square.clone()}
            squared = [self.state[p]["squared_norm"] for p in weights]
            torch._foreach_lerp_(squared, squares, 1 - group["betas"][1])
            scale = torch._foreach_sqrt(squared)
            torch._foreach_add_(scale, group["eps"])
            params, grads = _locals(weights), _locals(gradients)
            update = torch._foreach_div(grads, list(scale))
            torch._foreach_add_(update, params, alpha=group["weight_decay"])
            momenta = _locals([self.state[p]["momentum"] for p in weights])
            torch._foreach_mul_(momenta, group["betas"][0])
            torch._foreach_add_(momenta, update)
            torch._foreach_add_(params, momenta, alpha=-group["lr"])
        return loss


class Lion(Optimizer):
    """Steps by the sign of an average of gradient and momentum (arXiv:2302.06675, algorithm 2).

    ``c = b1 * m + (1 - b1) * g``; ``w = w - lr * (sign(c) + weight_decay * w)``; ``m = b2 * m + (1 - b2) * g``.

    Args:
        params: parameters, or groups of them.
        lr: rate of the step; 3 to 10 times smaller than AdamW's.
        betas: (b1, b2).
        weight_decay: share of ``lr`` by which weights shrink; 3 to 10 times larger than AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        *,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """Moves the weights once; returns what ``closure`` returns."""
        loss = _evaluate(closure)
        for group, weights, gradients in _pieces(self.param_groups):
            params, grads = _locals(weights), _locals(gradients)
            momenta = _locals([_momentum(self.state[p], p) for p in weights])
            update = torch._foreach_lerp(momenta, grads, 1 - group["betas"][0])
            torch._foreach_sign_(update)
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, update, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, grads, 1 - group["betas"][1])
        return loss


class Muon(Optimizer):
    """Steps along the nearest orthogonal matrix to the momentum; AdamW where there is no matrix.

    A weight with more than two axes is taken as the matrix (first axis, all others). The step of an (n, m) matrix is
    scaled by ``0.2 * sqrt(max(n, m))``, so that rate and decay of AdamW serve both (arXiv:2502.16982, section 2.2).

    Args:
        matrices: groups whose weights are matrices.
        others: groups for AdamW; they may set its ``betas`` and ``eps``.
        lr: rate of the step.
        momentum: share of the past in the momentum, which is Nesterov's.
        weight_decay: share of ``lr`` by which weights shrink.
    """

    def __init__(
        self,
        matrices: Iterable[Group],
        others: Iterable[Group],
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        shared = {"lr": lr, "weight_decay": weight_decay}
        tagged = [group | {"momentum": momentum} for group in matrices]
        others = list(others)
        self._adamw = AdamW(others, lr=lr, weight_decay=weight_decay, fused=True) if others else None
        super().__init__([*tagged, *(self._adamw.param_groups if self._adamw else [])], shared)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """Moves the weights once; returns what ``closure`` returns."""
        loss = _evaluate(closure)
        for group, params, grads in _pieces([group for group in self.param_groups if "momentum" in group]):
            for p, grad in zip(params, grads, strict=True):
                self._step_matrix(p, grad, group)
        if self._adamw:  # it works on our groups and our state, so that we save, load and schedule them as one
            self._adamw.param_groups = [group for group in self.param_groups if "momentum" not in group]
            self._adamw.state = self.state
            self._adamw.step()
        return loss

    def _step_matrix(self, p: Tensor, grad: Tensor, group: Group) -> None:
        momentum = _momentum(self.state[p], p)
        local(momentum).lerp_(local(grad), 1 - group["momentum"])
        ahead = grad.lerp(momentum, group["momentum"])
        whole = ahead.full_tensor() if isinstance(ahead, DTensor) else ahead
        update = orthogonal(whole.flatten(1))
        p = p.detach()
        local(p).mul_(1 - group["lr"] * group["weight_decay"])
        local(p).add_(part_of(update.view_as(whole), p), alpha=-group["lr"] * 0.2 * max(update.shape) ** 0.5)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Approximates U V^T of the singular value decomposition U S V^T by the quintic Newton-Schulz iteration of Muon.

    Singular values end between about 0.7 and 1.2, which serves as well as 1. Products are made in bfloat16.

    Args:
        matrix: (n, m).
        steps: iterations.
    """
    wide = matrix.size(0) <= matrix.size(1)
    x = (matrix if wide else matrix.T).bfloat16()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x if wide else x.T).to(matrix.dtype)


def squared_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Computes the squared 2-norm of each tensor, over all processes that it is sharded over."""
    squares = list(torch._foreach_norm(_locals(tensors)))
    torch._foreach_pow_(squares, 2)
    shared: dict[dist.ProcessGroup, list[Tensor]] = defaultdict(list)
    for tensor, square in zip(tensors, squares, strict=True):
        for group in groups_of(tensor):
            shared[group].append(square)
    for group, parts in shared.items():
        joined = torch.stack(parts)
        dist.all_reduce(joined, group=group)
        torch._foreach_copy_(parts, list(joined))
    return squares


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that all have, cut as another is."""
    if not isinstance(like, DTensor):
        return whole
    everywhere = [Replicate()] * like.device_mesh.ndim
    spread = DTensor.from_local(whole, like.device_mesh, everywhere, run_check=False)
    return local(spread.redistribute(placements=like.placements))


def _locals(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [local(tensor) for tensor in tensors]


def _momentum(state: dict[str, Tensor], p: Tensor) -> Tensor:
    """The momentum of a weight, zero at first."""
    if "momentum" not in state:
        state["momentum"] = torch.zeros_like(p)
    return state["momentum"]


def _pieces(groups: list[Group]) -> Iterator[tuple[Group, list[Tensor], list[Tensor]]]:
    """The parameters that have a gradient, and their gradients, as many at a time as the caches of a CPU hold."""
    for group in groups:
        held = [(p, p.grad) for p in group["params"] if p.grad is not None]
        start, size = 0, 0
        for end, (p, _) in enumerate(held):
            size += p.numel()
            last = end + 1 == len(held)
            if last or (p.is_cpu and size + held[end + 1][0].numel() > CACHED):
                params, grads = zip(*held[start : end + 1], strict=True)
                yield group, list(params), list(grads)
                start, size = end + 1, 0


def _evaluate(closure: Closure | None) -> float | None:
    """What a closure returns; it computes gradients, so they are on."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
