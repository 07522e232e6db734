"""Laying a network out over a mesh: one function, in a fixed order, by the tables of `anemone.parallel.plans`.

    stages -> 8-bit products -> tensor -> context -> experts -> recomputation -> compilation -> sharding

The network itself knows nothing of it, and its parameters keep their names.
"""

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from anemone.config import must
from anemone.parallel import pipeline
from anemone.parallel.compilation import compile_blocks
from anemone.parallel.context import apply_context, check_cores
from anemone.parallel.expert import apply_experts
from anemone.parallel.fp8 import Recipe, convert
from anemone.parallel.gradients import BucketedSum, local, sum_partial, total_norm
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.norms import widen_batch_norms
from anemone.parallel.plans import Planned, find, find_plans, number_of
from anemone.parallel.recompute import recompute
from anemone.parallel.tensor import apply_tensor, check_length

MODEL_AXES = ("pp", "cp", "tp", "ep")
"""Axes that need to know the architecture."""


def parallelize(
    network: nn.Module,
    mesh: Mesh,
    *,
    short: torch.dtype | None = None,
    fp8: Recipe | None = None,
) -> "Parallel":
    """Lays a network out over a mesh, in place.

    Args:
        network: of a task, with all its layers, the same on all ranks or on the meta device.
        mesh: of all processes.
        short: the format that weights and states are computed in; weights stay float32 for the optimizer, and
            gradients are summed in float32. Needs a process group, if only of one.
        fp8: how products are scaled to 8 bits, if they are.

    Raises:
        ConfigError: the network cannot be laid out so; names the setting and the fix.
    """
    config, planned = mesh.config, check(network, mesh.config)
    layers = pipeline.split(network, planned[0].plan, mesh) if config.pp > 1 else {}
    for part in planned:
        _lay_out(part, mesh, fp8)
    last = config.stages - 1
    stages = {
        number: pipeline.view(network, planned[0].plan, names, first=number == 0, last=number == last)
        for number, names in layers.items()
    } or {0: network}
    if short is not None:
        widen_batch_norms(network)
    if config.sharded > 1 or short is not None:
        assert mesh.world is not None, "weights are sharded over a process group, if only of one"
        for stage in stages.values():
            _shard(stage, mesh, short)
    return Parallel(network, stages, mesh, short or torch.float32)


def check(network: nn.Module, config: ParallelConfig) -> list[Planned]:
    """Returns the parts of a network that have a plan, if they can be laid out by these degrees.

    Args:
        network: of a task, with all its layers.
        config: with all numbers.

    Raises:
        ConfigError: they cannot; names the setting.
    """
    planned = find_plans(network)
    for axis in MODEL_AXES:
        degree = getattr(config, axis)
        rule = f"1, as no part of {type(network).__name__} has a plan"
        must(degree == 1 or bool(planned), f"parallel.{axis}", rule, value=degree)
    for part in planned:
        _check_part(part, config)
    if config.pp > 1:
        whole = planned[0].module is network
        must(whole, "parallel.pp", f"1, as {type(network).__name__} has no stages", value=config.pp)
        pipeline.check_stages(network, planned[0].plan, config)
    return planned


def _check_part(part: Planned, config: ParallelConfig) -> None:
    """Raises unless the numbers of a part divide by the degrees."""
    _, module, plan = part
    experts = find(module, plan.experts)
    for axis, able in (("pp", plan.layers), ("cp", plan.cores), ("tp", plan.tensor), ("ep", experts)):
        degree = getattr(config, axis)
        must(degree == 1 or bool(able), f"parallel.{axis}", f"1 for this {type(module).__name__}", value=degree)
    for setting, attribute in plan.divides.items():
        number = number_of(module, attribute)
        rule = f"a divisor of {number}, which `{setting}` gives"
        must(number % config.tp == 0, "parallel.tp", rule, value=config.tp, hint="Change either of them.")
    check_cores(module, plan, config)


def _lay_out(part: Planned, mesh: Mesh, fp8: Recipe | None) -> None:
    """All that happens to a part of a network before it is sharded."""
    config, (_, module, plan) = mesh.config, part
    if fp8 is not None:
        convert(module, plan, fp8, tensor_parallel=config.tp)
    if config.tp > 1:
        apply_tensor(module, plan, mesh)
        _tie(module)
    if config.cp > 1:
        apply_context(module, plan, mesh)
    if mesh.world is not None and find(module, plan.experts):
        apply_experts(module, plan, mesh)
    if config.recompute is not None:
        within = ("tp", "cp", "ep", "efsdp") if config.ep > 1 else ("tp", "cp")  # ranks that meet inside of a block
        groups = [axis.get_group() for name in within if (axis := mesh.axis(name)) is not None]
        recompute(module, plan, config.recompute, groups=groups)
    if config.compile:
        compile_blocks(module, plan, tensor_parallel=config.tp > 1)


def _tie(module: nn.Module) -> None:
    """Ties weights again that are tied by design, after their modules were given new ones."""
    if isinstance(module, Tied):
        module.tie()


@runtime_checkable
class Tied(Protocol):
    """A network some of whose modules share weights."""

    def tie(self) -> None:
        """Makes them share again."""


# --- sharding ---------------------------------------------------------------------------------------------------------


def _shard(root: nn.Module, mesh: Mesh, short: torch.dtype | None) -> None:
    """Shards the weights of a network or stage over ``dp_shard`` x ``cp``, each block, end and planned part by itself.

    What is outside of planned parts, such as features and heads of speech, computes in float32 always.
    """
    copies = ("dp_replicate",) if mesh.size("dp_replicate") > 1 else ()
    over, expert = mesh.over(*copies, "fsdp"), mesh.over(*copies, "efsdp")
    reduced = torch.float32 if short else None
    policy = MixedPrecisionPolicy(param_dtype=short, reduce_dtype=reduced, cast_forward_inputs=False)
    again = mesh.config.zero == 3
    for _, part, plan in find_plans(root):
        if mesh.size("ep") > 1:
            for experts in find(part, plan.experts):
                fully_shard(experts, mesh=expert, mp_policy=policy, reshard_after_forward=again)
        blocks = [
            fully_shard(block, mesh=over, mp_policy=policy, reshard_after_forward=again)
            for block in find(part, plan.blocks)
        ]
        _prefetch(blocks, mesh.config.prefetch)
        for ends, soon in ((plan.first, False), (plan.last, mesh.config.pp == 1)) if not _shared(part) else ():
            for end in find(part, ends):  # the last are needed again at once, where there is no pipeline
                fully_shard(end, mesh=over, mp_policy=policy, reshard_after_forward=again and not soon)
        outer = None if part is root else reduced
        around = MixedPrecisionPolicy(param_dtype=short, reduce_dtype=reduced, output_dtype=outer)
        fully_shard(part, mesh=over, mp_policy=around, reshard_after_forward=False)
    if not isinstance(root, FSDPModule):
        fully_shard(root, mesh=over, mp_policy=MixedPrecisionPolicy(), reshard_after_forward=False)
    # FSDP warns of views that a later module may write to; no module of ours writes to what it is given
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(\w+\) returned a view tensor")
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)


def _shared(network: nn.Module) -> bool:
    """Whether some weight has two names."""
    return len(list(network.named_parameters(remove_duplicate=False))) > len(list(network.parameters()))


def _prefetch(blocks: Sequence[FSDPModule], ahead: int) -> None:
    """Lets each block gather the weights of the next ones early, and on the way back of those before it."""
    for number, block in enumerate(blocks if ahead else ()):
        block.set_modules_to_forward_prefetch(list(blocks[number + 1 : number + 1 + ahead]))
        block.set_modules_to_backward_prefetch(list(blocks[max(0, number - ahead) : number][::-1]))


# --- what came of it --------------------------------------------------------------------------------------------------


class Parallel:
    """A network that is laid out over a mesh, and what a step must do with it beside forward and backward.

    Without a pipeline, a step is ``begin(last)``, forward and backward for each micro-batch, then `reduce`; with one, a
    step of the `schedule`, then `reduce`. Gradients are sums over micro-batches and ranks afterwards, never means.

    Args:
        network: all layers of this rank.
        stages: number of each stage of this rank -> its module.
        mesh: of all processes.
        states: format of what stages pass on.
    """

    def __init__(self, network: nn.Module, stages: Mapping[int, nn.Module], mesh: Mesh, states: torch.dtype) -> None:
        self.network, self.mesh, self._numbered, self._states = network, mesh, dict(stages), states
        self.stages = list(stages.values())
        """The network itself without a pipeline; else a view of it for each stage, in the order of the pipeline."""
        self.is_last = mesh.config.stages - 1 in stages
        """Whether this rank has the last stage."""
        self._roots = [stage for stage in self.stages if isinstance(stage, FSDPModule)]

    @functools.cached_property
    def _sums(self) -> BucketedSum | None:
        """What sums gradients that are not sharded. Made in the first step, as weights may have no memory before."""
        over = None if self._roots else self.mesh.axis("loss")
        if over is None:
            return None
        return BucketedSum(self.network.parameters(), over.get_group(), overlap=self.mesh.config.pp == 1)

    def begin(self, last: bool) -> None:
        """Prepares the forward and backward of one micro-batch; a pipeline does so itself.

        Args:
            last: whether it is the last one of the step, after which gradients are summed over ranks.
        """
        for root in self._roots:
            root.set_requires_gradient_sync(last or self.mesh.config.zero > 1)
            root.set_requires_all_reduce(last)
            root.set_reshard_after_backward(last or self.mesh.config.zero == 3)
        if last and self._sums is not None:
            self._sums.arm()

    def reduce(self) -> None:
        """Sums over ranks what has not been summed in the last backward; call it once a step, on every rank."""
        if self._sums is not None:
            self._sums.finish()
        sum_partial(self.network.parameters())

    def grad_norm(self) -> Tensor:
        """Computes the norm of the gradient of the whole model, float32, the same on all ranks."""
        pipe = self.mesh.axis("pp")
        parameters = list(self.network.parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        gradients = gradients or [local(parameter).new_zeros(()) for parameter in parameters[:1]]  # of a frozen stage
        return total_norm(gradients, pipe.get_group() if pipe else None)

    def schedule(self, loss: pipeline.Loss) -> pipeline.Pipeline:
        """Returns what drives micro-batches through the stages of a pipeline.

        Args:
            loss: from the output of the last stage and the number of the micro-batch to what is to become small.
        """
        return pipeline.Pipeline(self._numbered, self.mesh, loss, states=self._empty_states)

    def _empty_states(self, inputs: pipeline.Inputs) -> Tensor:
        """A tensor on meta like the states (B, N, D) that stages pass on for a micro-batch of tokens (B, N)."""
        tokens, config = inputs[0], self.mesh.config
        assert tokens is not None
        parts = config.tp if config.sequence_parallel else 1
        check_length(tokens.shape[1], parts)
        width: Any = self.network.d_model
        shape = (tokens.shape[0], tokens.shape[1] // parts, width)
        return torch.empty(shape, dtype=self._states, device="meta", requires_grad=True)
