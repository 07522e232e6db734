"""Operations, as PyTorch dispatches them: which ones are costly, and what keeps their results for a second forward."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

OPERATIONS: dict[str, frozenset[str]] = {
    "products": frozenset(
        {
            "aten::mm",
            "aten::addmm",
            "aten::bmm",
            "aten::baddbmm",
            "aten::convolution",
            "aten::_scaled_mm",
            "aten::_grouped_mm",
        }
    ),
    "attention": frozenset(
        {
            "aten::_scaled_dot_product_flash_attention_for_cpu",
            "aten::_scaled_dot_product_flash_attention",
            "aten::_scaled_dot_product_efficient_attention",
            "aten::_scaled_dot_product_cudnn_attention",
            "torch_attn::_varlen_attn",
            "anemone::blocked_attention",
            "flex_attention",
        }
    ),
}
"""Kind -> names of operations whose results are worth their memory. A convolution counts as a product."""


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls a function with some operations' results.

    Args:
        operations: their names.
        seen: what is called.
    """

    supports_higher_order_operators = True

    def __init__(self, operations: frozenset[str], seen: Callable[[Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.seen = operations, seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.name() in self.operations:
            self.seen(out)
        return out


class Keep(Watch):  # type: ignore[no-untyped-call]
    """Keeps the results of some operations, in order.

    Args:
        operations: their names.
    """

    def __init__(self, operations: frozenset[str]) -> None:
        super().__init__(operations, lambda out: self.results.append(_apart(out)))
        self.results: list[Any] = []


class GiveBack(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives back what was kept instead of computing it; anew each time it is entered.

    Args:
        kept: from the same operations in the same order. Others may come in between that were not there before.
    """

    supports_higher_order_operators = True

    def __init__(self, kept: Keep) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept = kept
        self.number = 0

    def __enter__(self) -> Any:
        self.number = 0
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() not in self.kept.operations:
            return func(*args, **(kwargs or {}))
        self.number += 1
        return _apart(self.kept.results[self.number - 1])


def _apart(out: Any) -> Any:
    """The same memory as other tensors, so that none of them holds the graph of the others."""
    return tree_map_only(Tensor, Tensor.detach, out)
