"""A task's network, laid out over the mesh of a run and filled with its first weights."""

import torch

from anemone.parallel.apply import Parallel, parallelize
from anemone.parallel.initial import initialize
from anemone.parallel.mesh import Mesh
from anemone.tasks.task import Task
from anemone.training.precision import Precision


def lay_out(
    task: Task, mesh: Mesh | None, *, precision: Precision, seed: int, device: torch.device | str = "cpu"
) -> Parallel | None:
    """Puts a task on a device, its network over a mesh; returns what the engine steps over.

    Args:
        task: as it was built, on the meta device if it is ``lazy``.
        mesh: of all processes; None leaves the network as it is, for one process.
        precision: its formats of weights and products decide how the network is laid out.
        seed: of the first weights of a lazy task; others have theirs.
        device: of this process.

    Raises:
        ConfigError: the network cannot be laid out so; names the setting and the fix.
    """
    if not task.lazy:
        task.to(device)
    parallel = parallelize(task.network, mesh, short=precision.weights, fp8=precision.fp8) if mesh else None
    if task.lazy:
        initialize(task.network, task.draw, seed, device=device)
    return parallel
