"""A run's task as it is built; its network laid out over a mesh and filled with its first weights; shares of a step."""

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from anemone import tasks
from anemone.checkpoint.huggingface import read_huggingface
from anemone.data.tokens import TokenDataConfig
from anemone.parallel.apply import Parallel, parallelize
from anemone.parallel.context import check_rows
from anemone.parallel.initial import allocate, initialize
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.tasks.task import Task
from anemone.training.precision import Precision

if TYPE_CHECKING:
    from anemone.training.experiment import ExperimentConfig


def build_task(config: "ExperimentConfig") -> Task:
    """The task with the initial weights of the run's seed; a lazy one without weights, on the meta device."""
    torch.manual_seed(config.run.seed)
    with torch.device("meta") if config.task.lazy else nullcontext():
        return tasks.build(config.task, config.model, config.features, loss=config.loss, decoding=config.decoding)


def lay_out(
    task: Task,
    mesh: Mesh | None,
    *,
    precision: Precision,
    seed: int,
    init: str | None = None,
    device: torch.device | str = "cpu",
) -> Parallel | None:
    """Puts a task on a device, its network over a mesh; returns what the engine steps over.

    Args:
        task: as it was built, on the meta device if it is ``lazy``.
        mesh: of all processes; None leaves the network as it is, for one process.
        precision: its formats of weights and products decide how the network is laid out.
        seed: of the first weights of a lazy task; others have theirs.
        init: a folder in Hugging Face's format that has the first weights; each process reads what it holds of them.
        device: of this process.

    Raises:
        ArchiveError: the folder is broken, or has other weights.
        ConfigError: the network cannot be laid out so; names the setting and the fix.
    """
    if not task.lazy:
        task.to(device)
    parallel = parallelize(task.network, mesh, short=precision.weights, fp8=precision.fp8) if mesh else None
    if init:
        allocate(task.network, device=device)
        read_huggingface(init).read_into(dict(task.network.named_parameters()))
    elif task.lazy:
        initialize(task.network, task.draw, seed, device=device)
    return parallel


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
