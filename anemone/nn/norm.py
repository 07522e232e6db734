"""Root-mean-square normalisation (arXiv:1910.07467)."""

from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from anemone.types import Hidden


class RMSNorm(nn.Module):
    """States divided by their root mean square over the width, times a learned gain.

    Example:
        >>> RMSNorm(2, eps=0.0)(torch.tensor([[[3.0, 4.0]]])).square().mean().round(decimals=4).item()
        1.0

    Args:
        d_model: width.
        eps: what is added to the mean square.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.d_model, self.eps = d_model, eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Hidden[Tensor, "B N D={self.d_model}"]) -> Hidden[Tensor, "B N D={self.d_model}"]:
        """Returns ``x / sqrt(mean(x ** 2) + eps) * weight``, computed in float32, in the type of ``x``.

        Under autocast it comes in the lower precision: once, and not once for each of the products that read it.

        Args:
            x: states.
        """
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if x.is_cuda or type(x) is not Tensor or torch.compiler.is_compiling():  # there it is one kernel as it stands
            return F.rms_norm(x, (self.d_model,), self.weight, self.eps).to(dtype)
        out: Tensor = _RMSNorm.apply(x, self.weight, self.eps, dtype)  # type: ignore[no-untyped-call]
        return out

    def extra_repr(self) -> str:
        """Width and epsilon, as `print(module)` shows them."""
        return f"{self.d_model}, eps={self.eps}"


class _RMSNorm(torch.autograd.Function):
    """The same in few passes over memory, which are what it costs on a CPU."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Hidden[Tensor, "B N D"],
        weight: Hidden[Tensor, "D"],
        eps: "Annotated[float, Hidden[Tensor, '']]",
        dtype: "Annotated[torch.dtype, Hidden[Tensor, '']]",
    ) -> Hidden[Tensor, "B N D"]:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()  # (B, N, 1)
        ctx.save_for_backward(x, weight, scale)
        return torch.mul(x * scale, weight, out=torch.empty(x.shape, dtype=dtype, device=x.device))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        saved = ctx.saved_tensors  # once: under recomputation there is no second time
        x, weight, scale = (t.float() for t in saved)
        grad = grad.float()
        product = grad * x
        inner = (product @ weight).unsqueeze(-1).mul_(scale.pow(3)).div_(x.shape[-1])  # (B, N, 1)
        gain = product.mul_(scale).flatten(0, -2).sum(0)
        states = torch.mul(grad, weight, out=product).mul_(scale).addcmul_(x, inner, value=-1)
        return states.to(saved[0].dtype), gain.to(saved[1].dtype), None, None
