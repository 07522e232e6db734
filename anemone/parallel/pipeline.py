"""Pipelines: stages that share out the layers of a network, and the schedules that drive micro-batches through them.

A rank's network holds the layers of all its stages; each stage is a view of it that computes some of them. A view has
no weights of its own, so that parameters are those of the network, under the names of the whole model.
"""

import copy
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining import schedules as torch_schedules

from anemone.config import must
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.plans import Plan

CLASSES = {
    "gpipe": "ScheduleGPipe",
    "1f1b": "Schedule1F1B",
    "interleaved_1f1b": "ScheduleInterleaved1F1B",
    "looped_bfs": "ScheduleLoopedBFS",
    "interleaved_zero_bubble": "ScheduleInterleavedZeroBubble",
    "zbv": "ScheduleZBVZeroBubble",
    "dualpipev": "ScheduleDualPipeV",
}
"""Schedule -> class of `torch.distributed.pipelining.schedules`."""

V_SHAPED = {"zbv", "dualpipev"}
"""Schedules whose first and last stages lie on the same rank: stages go down the ranks and up again."""

ROUNDS = {"interleaved_1f1b", "interleaved_zero_bubble"}
"""Schedules that take micro-batches in rounds of about one for each rank."""

LEAST = {"1f1b": 1, "dualpipev": 2}
"""Schedules that need so many micro-batches for each rank of a pipeline."""

FORWARD = {"gpipe": "gpipe", "1f1b": "gpipe", "zbv": "zbv", "dualpipev": "zbv"}
FORWARD |= dict.fromkeys(("interleaved_1f1b", "looped_bfs", "interleaved_zero_bubble"), "looped_bfs")
"""Schedule -> the one that takes any number of micro-batches through the same stages, forward alone."""

KEPT = 4
"""Schedules that are kept, each with its buffers: for so many shapes of micro-batches, and numbers of them."""

Inputs = tuple[Tensor | None, ...]
Loss = Callable[[Any, int], Tensor]


def stage_numbers(schedule: str, rank: int, ranks: int, *, stages_per_rank: int) -> list[int]:
    """Returns the numbers of the stages that a rank holds.

    Example:
        >>> [stage_numbers("interleaved_1f1b", rank, 2, stages_per_rank=2) for rank in (0, 1)]
        [[0, 2], [1, 3]]
        >>> [stage_numbers("zbv", rank, 2, stages_per_rank=2) for rank in (0, 1)]
        [[0, 3], [1, 2]]
    """
    if schedule in V_SHAPED:
        return [rank, 2 * ranks - 1 - rank]
    return [rank + turn * ranks for turn in range(stages_per_rank)]


def share_layers(num_layers: int, num_stages: int) -> list[int]:
    """Returns how many layers each stage has: as many as all, or one less on the first and last where it comes out so.

    The embedding and the head cost about what a layer does, so where layers do not divide evenly they count as one.

    Example:
        >>> share_layers(8, 4), share_layers(126, 16)[:2], share_layers(126, 16)[-1]
        ([2, 2, 2, 2], [7, 8], 7)
    """
    if num_layers % num_stages == 0:
        return [num_layers // num_stages] * num_stages
    ends = int(num_stages > 2 and num_layers + 2 >= 2 * num_stages)
    each, left = divmod(num_layers + 2 * ends, num_stages)
    counts = [each + (ends <= stage < ends + left) for stage in range(num_stages)]
    counts[0] -= ends
    counts[-1] -= ends
    return counts


def check_stages(network: nn.Module, plan: Plan, config: ParallelConfig) -> None:
    """Raises unless a network can be cut into the stages of a layout.

    Args:
        network: with all its layers.
        plan: of its class.
        config: with all numbers, and ``pp`` above 1.

    Raises:
        ConfigError: there are fewer layers than stages, or the first and last stage would share weights.
    """
    count = len(list(network.get_submodule(plan.layers).children()))
    rule = f"such that pp * stages_per_rank ({config.stages}) is at most `model.num_layers`, {count}"
    must(config.stages <= count, "parallel.pp", rule, value=config.pp)
    _refuse_ties(network, plan)


def split(network: nn.Module, plan: Plan, mesh: Mesh) -> dict[int, list[str]]:
    """Leaves a network only what this rank's stages compute; returns number of each stage -> names of its layers.

    Args:
        network: one that passes `check_stages`; changed in place.
        plan: of its class.
        mesh: with more than one rank along ``pp``.
    """
    config = mesh.config
    layers = network.get_submodule(plan.layers)
    assert isinstance(layers, nn.ModuleDict)
    names, each = list(layers), config.stages // config.pp
    counts = share_layers(len(names), config.stages)
    mine = {
        number: names[sum(counts[:number]) :][: counts[number]]
        for number in stage_numbers(config.schedule, mesh.rank("pp"), config.pp, stages_per_rank=each)
    }
    for name in set(names) - set(itertools.chain.from_iterable(mine.values())):
        del layers[name]
    for module in [*(plan.first if 0 not in mine else ()), *(plan.last if config.stages - 1 not in mine else ())]:
        setattr(network, module, None)
    return mine


def view(network: nn.Module, plan: Plan, names: Sequence[str], *, first: bool, last: bool) -> nn.Module:
    """Returns a module that computes one stage with the network's own layers.

    Args:
        network: with the layers of this rank.
        plan: of its class.
        names: of the stage's layers.
        first: whether it is the first stage.
        last: whether it is the last stage.
    """
    part = copy.copy(network)
    own = {key: copy.copy(value) for key, value in vars(network).items() if isinstance(value, dict | set)}
    vars(part).update(own)  # children and hooks of its own
    layers = network.get_submodule(plan.layers)
    assert isinstance(layers, nn.ModuleDict)
    setattr(part, plan.layers, nn.ModuleDict({name: layers[name] for name in names}))
    for module in [*(() if first else plan.first), *(() if last else plan.last)]:
        setattr(part, module, None)
    return part


def _refuse_ties(network: nn.Module, plan: Plan) -> None:
    first = {id(p): name for module in plan.first for name, p in _named(network, module)}
    for module in plan.last:
        for name, parameter in _named(network, module):
            tied = id(parameter) in first
            hint = "Set model.tie_embeddings=false, or parallel.pp=1."
            rule = f"1 where `{name}` is `{first.get(id(parameter))}`: they would lie in different stages"
            must(not tied, "parallel.pp", rule, value="more", hint=hint)


def _named(network: nn.Module, module: str) -> list[tuple[str, nn.Parameter]]:
    return list(network.get_submodule(module).named_parameters(prefix=module))


class Pipeline:
    """Drives micro-batches of one shape through the stages, forward and backward, or forward alone.

    Args:
        stages: number of each stage of this rank -> its module.
        mesh: with more than one rank along ``pp``.
        loss: from the output of the last stage and the number of the micro-batch to what is to become small; gradients
            of micro-batches are added, and divided by nothing.
        states: from the inputs of a micro-batch to an empty tensor like the states that stages pass on.
    """

    def __init__(
        self, stages: Mapping[int, nn.Module], mesh: Mesh, loss: Loss, *, states: Callable[[Inputs], Tensor]
    ) -> None:
        self.mesh, self.loss, self.states = mesh, loss, states
        self.names = list(inspect.signature(next(iter(stages.values())).forward).parameters)[1:]
        self.modules = {number: Unseen(stage) if mesh.config.zero > 1 else stage for number, stage in stages.items()}
        self._schedules: dict[Any, torch_schedules._PipelineSchedule] = {}

    def step(self, micro_batches: Sequence[Inputs]) -> list[Tensor]:
        """Takes all micro-batches forward and backward; returns the losses where the last stage is, else nothing.

        Args:
            micro_batches: what the first stage takes, then what all stages take; all of one shape. Every rank of the
                pipeline passes the same.

        Raises:
            ConfigError: the schedule cannot take so many micro-batches.
        """
        config = self.mesh.config
        check_count(config.schedule, config.pp, len(micro_batches))
        schedule = self._schedule(config.schedule, micro_batches)
        return self._run(schedule.step, micro_batches)

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[Inputs]) -> list[Tensor]:
        """Takes all micro-batches, of any number, forward; returns as `step` does what the loss gives.

        Args:
            micro_batches: as for `step`.
        """
        schedule = self._schedule(FORWARD[self.mesh.config.schedule], micro_batches)
        return self._run(schedule.eval, micro_batches)

    def _run(self, run: Callable[..., Any], micro_batches: Sequence[Inputs]) -> list[Tensor]:
        first, *others = (
            None if column[0] is None else torch.cat([part for part in column if part is not None])
            for column in zip(*micro_batches, strict=True)
        )
        losses: list[Tensor] = []
        is_last = self.mesh.config.stages - 1 in self.modules
        ends = {"target": torch.arange(len(micro_batches)), "losses": losses} if is_last else {}
        shared = {name: value for name, value in zip(self.names, others, strict=False) if value is not None}
        run(*((first,) if 0 in self.modules else ()), return_outputs=False, **ends, **shared)
        return losses

    def _schedule(self, name: str, micro_batches: Sequence[Inputs]) -> torch_schedules._PipelineSchedule:
        """The schedule for micro-batches of this shape. States have a known form, so that no trial run is needed."""
        tokens = micro_batches[0][0]
        assert tokens is not None
        key = name, tokens.shape, len(micro_batches), torch.is_grad_enabled()
        if key in self._schedules:
            return self._schedules[key]
        like = self.states(micro_batches[0])
        stages = [
            PipelineStage(
                module,
                number,
                self.mesh.config.stages,
                torch.device(self.mesh.device_type),
                input_args=tokens.to("meta") if number == 0 else like,
                output_args=like,
                group=self.mesh.over("pp").get_group(),
            )
            for number, module in self.modules.items()
        ]
        kind = getattr(torch_schedules, CLASSES[name])
        if len(self._schedules) == KEPT:
            del self._schedules[next(iter(self._schedules))]
        self._schedules[key] = kind(
            stages if issubclass(kind, torch_schedules.PipelineScheduleMulti) else stages[0],
            len(micro_batches),
            loss_fn=lambda output, number: self.loss(output, int(number)),
            scale_grads=False,
        )
        if name in V_SHAPED and not torch.is_grad_enabled():
            _leave_forwards(self._schedules[key])
        return self._schedules[key]


def _leave_forwards(schedule: Any) -> None:
    """Takes out of a V-shaped schedule all but forwards: without gradients, torch 2.13 trips over the rest."""
    kinds = torch_schedules._ComputationType
    kept = {kinds.FORWARD, kinds.SEND_F, kinds.RECV_F, kinds.UNSHARD, kinds.RESHARD}
    orders = schedule.pipeline_order_with_comms
    schedule.pipeline_order_with_comms = {
        rank: [action for action in actions if action.computation_type in kept] for rank, actions in orders.items()
    }


class Unseen(nn.Module):
    """Calls a stage and hides that it is sharded.

    Where torch sees that a stage is, it puts off all sums of gradients to the end of the step, as zero=1 asks for.

    Args:
        stage: what to call.
    """

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor, **shared: Tensor) -> Any:
        """Returns what the stage does."""
        return self.stage(x, **shared)


def check_count(schedule: str, pp: int, count: int, *, setting: str = "trainer.batches_per_step") -> None:
    """Raises unless a schedule can take so many micro-batches.

    Args:
        schedule: its name.
        pp: ranks of a pipeline.
        count: micro-batches.
        setting: what is named where it cannot.

    Raises:
        ConfigError: naming the setting.
    """
    least, rounds = LEAST.get(schedule, 0) * pp, max(1, count // pp) if schedule in ROUNDS else 1
    fits = count >= least and count % rounds == 0
    rule = f"{least} or more" + f", and a multiple of {rounds}," * (rounds > 1)
    hint = f"That is what each of the `{schedule}` pipelines gets of it."
    must(fits, setting, f"such that each pipeline has {rule}", value=count, hint=hint)
