"""One step of a small Llama over any layout, and what is sent in it."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from anemone.losses.token_cross_entropy import token_cross_entropy
from anemone.models.text.llama import LlamaConfig
from anemone.parallel.apply import Parallel, parallelize
from anemone.parallel.initial import initialize
from anemone.parallel.mesh import Mesh, ParallelConfig

SIZES = {"size": "custom", "d_model": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_ff": 128}


def laid_out(layout: dict[str, Any], sizes: dict[str, Any] = SIZES, **options: Any) -> Parallel:
    """A Llama over a layout, with first weights that depend on its sizes alone."""
    with torch.device("meta"):
        network = LlamaConfig(**sizes).build(64)
    parallel = parallelize(network, Mesh(ParallelConfig(**layout)), **options)
    initialize(network, network.draw, seed=7)
    return parallel


def micro_batches(mesh: Mesh) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Tokens, targets and positions: this rank's two, or one, of two micro-batches."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(0, 64, (2, 17), generator=generator) for _ in range(2)]
    every = [(row[:, :-1], row[:, 1:], torch.arange(16).expand(2, 16)) for row in rows]
    return every[mesh.data_rank :: mesh.data_world]


def step(parallel: Parallel) -> float:
    """Goes forward and backward; returns the sum of losses over all ranks."""
    mine, total = micro_batches(parallel.mesh), torch.zeros(())
    for number, (tokens, targets, positions) in enumerate(mine):
        parallel.begin(last=number + 1 == len(mine))
        loss = token_cross_entropy(parallel.network(tokens, positions), targets)[0]
        loss.backward()
        total += loss.detach()
    if (axis := parallel.mesh.axis("loss")) is not None:
        torch.distributed.all_reduce(total, group=axis.get_group())
    return total.item()


def whole(tensor: Tensor) -> Tensor:
    """A copy of all of a tensor of which ranks may have parts."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


class Messages(TorchDispatchMode):
    """Names of the collectives and messages, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.names.append(func.__name__.partition(".")[0].strip("_"))
        return func(*args, **(kwargs or {}))
