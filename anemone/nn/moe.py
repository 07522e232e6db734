"""Mixture of experts: each token goes through the few of many feed-forward networks that a router picks for it.

The routing is Mixtral's (arXiv:2401.04088, section 2.1): softmax over all experts, the best few, renormalised. No token
is ever dropped. In ports, axis C counts experts and Q the experts of one token.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anemone.types import Hidden, Length, Logits, Loss, Positions, Probs


class MoE(nn.Module):
    """Sum of the outputs of a token's experts, weighted by the router: a feed-forward layer on (B, N, D).

    Example:
        >>> moe = MoE(8, 16, num_experts=4, num_experts_per_token=2)
        >>> moe(torch.zeros(1, 5, 8)).shape
        torch.Size([1, 5, 8])

    Args:
        d_model: width of the states, a multiple of 8.
        d_ff: width inside an expert, a multiple of 8.
        num_experts: how many there are.
        num_experts_per_token: how many of them a token goes through.
        balance: coefficient of the load-balancing loss, see `Balance`; 0 for none.
    """

    def __init__(
        self, d_model: int, d_ff: int, *, num_experts: int, num_experts_per_token: int, balance: float = 0.0
    ) -> None:
        super().__init__()
        assert 1 <= num_experts_per_token <= num_experts, (num_experts_per_token, num_experts)
        self.d_model, self.num_experts, self.num_experts_per_token = d_model, num_experts, num_experts_per_token
        self.router = Router(d_model, num_experts)
        self.balance = Balance(balance)
        self.experts = Experts(d_model, d_ff, num_experts)

    def forward(self, x: Hidden[Tensor, "B N D={self.d_model}"]) -> Hidden[Tensor, "B N D={self.d_model}"]:
        """Returns ``sum_q w_q expert_q(x)`` over the experts of each token.

        Args:
            x: states.
        """
        tokens = x.flatten(0, -2)  # (B, N, D) -> (B N, D)
        probs = self.router(tokens).softmax(-1)
        chosen = probs.detach().topk(self.num_experts_per_token).indices
        order, sizes = sort(chosen, self.num_experts)
        weight = self.balance(probs, sizes).gather(-1, chosen)
        weight = weight / weight.sum(-1, keepdim=True)
        back = order.argsort()
        rows = tokens.unsqueeze(1).expand(-1, chosen.shape[-1], -1).flatten(0, 1)  # (B N, D) -> (B N Q, D)
        y = permuted(self.experts(permuted(rows, order, back), sizes), back, order)
        y = torch.einsum("nq,nqd->nd", weight.to(y.dtype), y.view(*chosen.shape, self.d_model))
        return y.view(x.shape)


class Router(nn.Linear):
    """Scores of the experts for each token, computed in float32 under any precision (arXiv:2101.03961, section 2.4).

    Args:
        d_model: width of the states.
        num_experts: how many scores.
    """

    def __init__(self, d_model: int, num_experts: int) -> None:
        super().__init__(d_model, num_experts, bias=False)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Hidden[Tensor, "N D={self.in_features}"]) -> Logits[Tensor, "N C={self.out_features}"]:
        """Returns unnormalised scores as float32.

        Args:
            x: states of tokens.
        """
        return scores(x, self.weight)


def scores(x: Tensor, weight: Tensor) -> Tensor:
    """Computes ``x weight^T`` in float32, autocast or not: (N, D), (C, D) -> (N, C)."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weight.float())


class Experts(nn.Module):
    """SwiGLU networks ``down(silu(gate x) * up x)`` side by side, each over its own rows (arXiv:2002.05202).

    Args:
        d_model: width of the states.
        d_ff: width inside.
        num_experts: how many.
    """

    def __init__(self, d_model: int, d_ff: int, num_experts: int) -> None:
        super().__init__()
        assert d_model % 8 == d_ff % 8 == 0, f"grouped products need multiples of 8, but have {d_model} and {d_ff}"
        self.d_model = d_model
        self.gate = nn.Parameter(torch.empty(num_experts, d_ff, d_model))
        self.up = nn.Parameter(torch.empty(num_experts, d_ff, d_model))
        self.down = nn.Parameter(torch.empty(num_experts, d_model, d_ff))
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.02)

    def forward(
        self, x: Hidden[Tensor, "N D={self.d_model}"], sizes: Length[Tensor, "C"]
    ) -> Hidden[Tensor, "N D={self.d_model}"]:
        """Returns the output of each row's expert.

        Args:
            x: rows, sorted by expert.
            sizes: rows of each expert.
        """
        return grouped_swiglu(x, sizes, self.gate, self.up, self.down)


def grouped_swiglu(x: Tensor, sizes: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Computes ``down_c(silu(gate_c x) * up_c x)`` for the rows of each expert c.

    Args:
        x: (N, D) rows, sorted by expert.
        sizes: (C,) rows of each expert.
        gate: (C, F, D) weights.
        up: (C, F, D) weights.
        down: (C, D, F) weights.
    """
    short = working_dtype(x)
    x, gate, up, down = x.to(short), gate.to(short), up.to(short), down.to(short)
    ends = sizes.cumsum(0).to(torch.int32)
    product = F.grouped_mm if short == torch.bfloat16 else _uncompiled_product
    h = F.silu(product(x, gate.mT, offs=ends)) * product(x, up.mT, offs=ends)
    return product(h, down.mT, offs=ends)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _uncompiled_product(x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    """A grouped product in a format that PyTorch 2.13 computes, but does not compile."""
    return F.grouped_mm(x, weight, offs=offs)


def working_dtype(x: Tensor) -> torch.dtype:
    """The format that products of ``x`` are computed in, for operations that autocast does not know."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


# --- sorting tokens by expert -----------------------------------------------------------------------------------------


def sort(chosen: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """Finds the order that puts the rows of one expert side by side; row ``n Q + q`` is token n for its q-th expert.

    Args:
        chosen: (N, Q) experts of each token.
        num_experts: how many there are.

    Returns:
        (N Q,) which row comes i-th, and (C,) how many rows each expert has; int64.
    """
    flat = chosen.flatten()
    sizes = torch.zeros(num_experts, dtype=torch.int64, device=flat.device)
    return flat.argsort(stable=True), sizes.scatter_add(0, flat, torch.ones_like(flat))


def permuted(x: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """Computes ``x[order]``, where ``back`` undoes ``order``."""
    out: Tensor = Permute.apply(x, order, back)  # type: ignore[no-untyped-call]
    return out


class Permute(torch.autograd.Function):
    """Rows in another order. Backward is a look-up as well, not a sum: quick, and the same on every run."""

    @staticmethod
    def forward(
        ctx: Any, x: Hidden[Tensor, "N D"], order: Positions[Tensor, "N"], back: Positions[Tensor, "N"]
    ) -> Hidden[Tensor, "N D"]:
        """Returns ``x[order]``, where ``back`` undoes ``order``."""
        ctx.save_for_backward(back)
        return x[order]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Returns the gradient of the rows as they came."""
        (back,) = ctx.saved_tensors
        return gradient[back], None, None


# --- balance ----------------------------------------------------------------------------------------------------------


class Balance(nn.Module):
    """Adds the gradient of a load-balancing loss to that of the router's probabilities.

    The loss of a micro-batch is ``coefficient * balance_loss``: a sum over tokens, as the loss of a task is one. It
    never enters the number that is reported. Its gradient joins on the way back through the router, so that it needs no
    way from this layer to the last stage of a pipeline; the engine writes into ``scale`` what the task's loss is
    multiplied by before ``backward()``, see `set_balance_scale`. Where ranks share the tokens of a micro-batch, a
    subclass counts over all of them.

    Args:
        coefficient: how much the loss counts.
    """

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.coefficient = coefficient
        self.scale = torch.ones((), device="cpu")  # no buffer: it has no place in a checkpoint, nor on `meta`

    def forward(self, probs: Probs[Tensor, "N C"], sizes: Length[Tensor, "C"]) -> Probs[Tensor, "N C"]:
        """Returns the probabilities as they are.

        Args:
            probs: of the router, over all experts.
            sizes: rows of each expert.
        """
        if not self.coefficient or not torch.is_grad_enabled():
            return probs
        total, share = self.count(sizes)
        loss = balance_loss(probs, total) * (self.coefficient * share)
        out: Tensor = AddLoss.apply(probs, loss, self.read_later(probs.device))  # type: ignore[no-untyped-call]
        return out

    def count(self, sizes: Tensor) -> tuple[Tensor, float]:
        """Rows of each expert over all ranks that share the micro-batch, and which share of the gradient is ours."""
        return sizes, 1.0

    def read_later(self, device: torch.device) -> Tensor:
        """The tensor in which the backward pass of this call finds its scale."""
        return self.scale


def balance_loss(probs: Tensor, sizes: Tensor) -> Tensor:
    """Computes ``C sum_c f_c sum_n p_nc``, N where all experts are used alike (arXiv:2101.03961, equations 4 to 6).

    The share f_c of the rows that go to expert c has no gradient. It may be counted over more tokens than these.

    Args:
        probs: (N, C) of the router.
        sizes: (C,) rows of each expert.
    """
    share = sizes / sizes.sum().clamp(min=1)
    return len(sizes) * (probs.sum(0) * share).sum()


class AddLoss(torch.autograd.Function):
    """The identity of its first argument that makes ``scale * loss`` a part of what is differentiated."""

    @staticmethod
    def forward(
        ctx: Any, x: Probs[Tensor, "N C"], loss: Loss[Tensor, ""], scale: Loss[Tensor, ""]
    ) -> Probs[Tensor, "N C"]:
        """Returns ``x``. The scale is read in backward, when the engine knows it."""
        ctx.scale, ctx.like = scale, (loss.dtype, loss.device)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Returns the gradient as it came, and the scale as that of the loss."""
        dtype, device = ctx.like
        return gradient, ctx.scale.to(device, dtype, copy=True), None


def set_balance_scale(network: nn.Module, scale: float | Tensor) -> None:
    """Tells all `Balance` layers what the sum of losses is multiplied by before ``backward()``.

    Args:
        network: with any number of such layers, none included.
        scale: one over the unit, times that of a gradient scaler; 0 for a micro-batch that must not count.
    """
    for module in network.modules():
        if isinstance(module, Balance):
            module.scale.copy_(torch.as_tensor(scale))
