"""Tensor parallelism: matrices divided over processes, and between them the sequence (arXiv:1909.08053, 2205.05198).

A plan gives each module a style by name. Weights become `DTensor`s; what modules pass on to each other stays plain
tensors, of which each process has its part:

    embedding        rows of the table, one part of the vocabulary each; gives a part of the sequence
    norm             whole weights, on a part of the sequence
    whole            collects the sequence for the modules inside
    column           columns of a matrix: takes the whole sequence, gives a part of the width
    row              rows of a matrix: takes a part of the width, gives a part of the sequence
    logits           columns of the last matrix; gives a part of the vocabulary, or all of it
    column_gathered  columns of a matrix that gives its whole width

Without sequence parallelism, "a part of the sequence" is the whole of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F

from anemone.config import must
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.plans import Plan, matching


class Between(NamedTuple):
    """How states lie between matrices, and the logits after the last."""

    states: Placement
    logits: Placement


def between(plan: Plan, config: ParallelConfig) -> Between:
    """Says how states and logits lie; a plan without norms keeps the sequence whole."""
    return Between(
        states=Shard(1) if config.sequence_parallel and "norm" in plan.tensor.values() else Replicate(),
        logits=Shard(-1) if config.loss_parallel else Replicate(),
    )


class WholeInput(ParallelStyle):
    """Collects a module's first input; where it was whole already, its gradients are summed once for all users.

    Args:
        states: how the input lies.
    """

    def __init__(self, states: Placement) -> None:
        super().__init__()
        self.states = states

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def collect(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            first, *rest = inputs
            if not isinstance(first, DTensor):
                first = DTensor.from_local(first, device_mesh, (self.states,), run_check=False)
            return (first.redistribute(placements=(Replicate(),)), *rest)

        module.register_forward_pre_hook(collect)
        return module


class VocabularyParallel(ParallelStyle):
    """Gives each rank some rows of an embedding's table; its gradient is of these rows alone.

    Args:
        states: how the output lies.
    """

    def __init__(self, states: Placement) -> None:
        super().__init__()
        self.states = states

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, nn.Embedding)
        table = distribute_tensor(module.weight, device_mesh, (Shard(0),), src_data_rank=None)
        module.weight = nn.Parameter(table)
        first = device_mesh.get_local_rank() * (module.num_embeddings // device_mesh.size())

        def look_up(tokens: Tensor) -> Tensor:
            weight: Any = module.weight
            rows: Tensor = weight.to_local()
            index = tokens - first
            here = (index >= 0) & (index < len(rows))
            found = F.embedding(index.where(here, 0), rows) * here.unsqueeze(-1)
            summed = DTensor.from_local(found, device_mesh, (Partial(),), run_check=False)
            states: Tensor = summed.redistribute(placements=(self.states,)).to_local()
            return states

        module.forward = look_up  # type: ignore[method-assign, assignment]
        return module


def _norm(between: Between) -> ParallelStyle | None:
    return SequenceParallel() if between.states.is_shard() else None


def _logits(between: Between) -> ParallelStyle:
    whole = between.logits.is_replicate()
    return ColwiseParallel(input_layouts=between.states, output_layouts=between.logits, use_local_output=whole)


STYLES: dict[str, Callable[[Between], ParallelStyle | None]] = {
    "embedding": lambda between: VocabularyParallel(between.states),
    "norm": _norm,
    "whole": lambda between: WholeInput(between.states),
    "column": lambda between: ColwiseParallel(),
    "row": lambda between: RowwiseParallel(output_layouts=between.states),
    "logits": _logits,
    "column_gathered": lambda between: ColwiseParallel(output_layouts=Replicate()),
}

WIDTHS = {"embedding": 0, "column": 0, "row": 1, "logits": 0, "column_gathered": 0}
"""Style -> the dimension of the weight that is divided."""


def apply_tensor(network: nn.Module, plan: Plan, mesh: Mesh) -> None:
    """Divides the matrices of a network over ``tp``, as its plan says.

    Args:
        network: changed in place; a stage of a pipeline will do.
        plan: of its class.
        mesh: with more than one rank along ``tp``.

    Raises:
        ConfigError: a matrix cannot be divided evenly; names it.
    """
    axis, config = mesh.axis("tp"), mesh.config
    assert axis is not None
    if config.async_tp:
        _overlap(axis)
    lie = between(plan, config)
    for pattern, name in plan.tensor.items():
        style = STYLES[name](lie)
        for path, module in matching(network, pattern):
            if style is None:
                continue
            if name in WIDTHS:
                if not isinstance(module, nn.Linear | nn.Embedding):
                    continue  # a convolution over several frames stays whole
                width = module.weight.shape[WIDTHS[name]]
                rule = f"a divisor of {width}, a width of `{path}`"
                must(width % config.tp == 0, "parallel.tp", rule, value=config.tp)
            if name == "embedding" and lie.states.is_shard():
                module.register_forward_pre_hook(lambda _, inputs: check_length(inputs[0].shape[1], config.tp))
            parallelize_module(module, axis, style)


def check_length(length: int, tp: int) -> None:
    """Raises unless the tokens of each sequence that a rank of ``cp`` has divide by ``tp``.

    Raises:
        ConfigError: naming the setting.
    """
    rule = "such that tp divides what each rank of cp has of a sequence, under sequence parallelism"
    must(length % tp == 0, "data.sequence_len", rule, value=length, hint="Or set parallel.sequence_parallel=false.")


def _overlap(axis: DeviceMesh) -> None:
    """Lets the compiler run products and the collectives beside them piece by piece; not proven, for want of GPUs."""
    from torch._inductor import config as inductor
    from torch.distributed._symmetric_memory import enable_symm_mem_for_group

    inductor._micro_pipeline_tp = True
    enable_symm_mem_for_group(axis.get_group().group_name)
