"""A run's task as it is built; its network laid out over a mesh and filled with its first weights; shares of a step."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch

from anemone import tasks
from anemone.data.tokens import TokenDataConfig
from anemone.nn.adapters import HOLDER, first_value
from anemone.parallel.apply import Parallel, parallelize
from anemone.parallel.context import check_rows
from anemone.parallel.initial import initialize
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.tasks.task import Task
from anemone.training.adapting import Init, adapt, start
from anemone.training.precision import Precision

log = logging.getLogger("anemone.training")

if TYPE_CHECKING:
    from anemone.training.experiment import ExperimentConfig


def build_task(config: "ExperimentConfig") -> Task:
    """The task with the initial weights of the run's seed; a lazy one without weights, on the meta device.

    Its adapters hang on it, and what is not to move is frozen; weights of other models are put in by `lay_out`.
    """
    torch.manual_seed(config.run.seed)
    with torch.device("meta") if config.task.lazy else nullcontext():
        task = tasks.build(config.task, config.model, config.features, loss=config.loss, decoding=config.decoding)
    adapt(task, config.adapt, config.run.init)
    return task


def lay_out(
    task: Task,
    mesh: Mesh | None,
    *,
    precision: Precision,
    seed: int,
    init: Init = None,
    only: Sequence[str] | None = None,
    but: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> Parallel | None:
    """Puts a task on a device, its network over a mesh; returns what the engine steps over.

    Args:
        task: as it was built, on the meta device if it is ``lazy``.
        mesh: of all processes; None leaves the network as it is, for one process.
        precision: its formats of weights and products decide how the network is laid out.
        seed: of the first weights of a lazy task; others have theirs.
        init: the models that have the first weights; each process reads what it holds of them.
        only: as `anemone.training.adapting.start` takes them.
        but: the same.
        device: of this process.

    Raises:
        ArchiveError: a model is broken, or has other weights.
        ConfigError: the network cannot be laid out so; names the setting and the fix.
    """
    begin = start(task, init, only=only, but=but) if init else None
    if not task.lazy:
        task.to(device)
        if begin:
            begin.fill({name: t for name, t in task.network.state_dict().items() if name in begin.names})
    parallel = parallelize(task.network, mesh, short=precision.weights, fp8=precision.fp8) if mesh else None
    if task.lazy:
        taken = begin.names if begin else frozenset()
        initialize(task.network, partial(_draw, task), seed, device=device, but=taken)
        if begin:
            begin.fill({name: p for name, p in task.network.named_parameters() if name in taken})
    for source, report in begin.reports.items() if begin else ():
        log.info("The run starts with weights of `%s`:\n%s", source, report)
    return parallel


def _draw(task: Task, name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Draws the first value of a parameter of the network, or of its adapters."""
    if HOLDER in name.split("."):
        return first_value(name, shape, generator)
    return task.draw(name, shape, generator)


def resolved(config: "ExperimentConfig", world: int) -> ParallelConfig:
    """How a run is spread over so many processes, with all numbers.

    Raises:
        ConfigError: the degrees do not make up the processes, the layout is known not to work, or rows of tokens cannot
            be shared out; names the setting.
    """
    parallel = config.parallel.resolve(world)
    if isinstance(config.data, TokenDataConfig):
        check_rows(config.data.sequence_len, parallel, packed=config.data.pack)
    return parallel


def num_shares(parallel: ParallelConfig) -> int:
    """Processes that read different data; copies of the weights that are not said count as one."""
    return (parallel.dp_replicate or 1) * parallel.dp_shard


def usual_batches(parallel: ParallelConfig) -> int:
    """Micro-batches of a step: one for each share of the data, and in a pipeline two for each of its ranks."""
    return num_shares(parallel) * (2 * parallel.pp if parallel.pp > 1 else 1)
