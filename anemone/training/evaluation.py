"""How good a task is: metric states added over batches and ranks, then summed up."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from anemone.data.batch import Batch
from anemone.data.loader import DataConfig, Loader
from anemone.data.manifest import Index
from anemone.tasks.task import Task, inference
from anemone.training import ranks
from anemone.training.precision import precision as find_precision

States = dict[str, Tensor]


def evaluate(
    task: Task,
    manifests: Sequence[str | Path],
    *,
    batch_size: int = 32,
    channel: int | None = None,
    num_workers: int = 0,
    precision: str = "32",
    skip_bad: bool = True,
) -> dict[str, float]:
    """Measures a task on manifests, on the device it is on.

    Args:
        task: any task.
        manifests: paths; ``assets/...`` is looked up inside the package.
        batch_size: utterances a batch. No metric depends on it, unless the head pools over padding: models out of
            NeMo's archives do; with 1 they hear each recording alone.
        channel: which channel of the recordings to take, from 0; the mean of all if None.
        num_workers: processes that read ahead.
        precision: of the products.
        skip_bad: whether utterances that cannot be used are reported and left out, or refused.

    Raises:
        DataError: a manifest does not exist or holds nothing to use.
    """
    data = DataConfig(
        rate=task.rate, channel=channel, eval_batch_size=batch_size, num_workers=num_workers, skip_bad=skip_bad
    )
    return task.summarize(states_of(task, manifests, data, precision=precision))


def states_of(task: Task, manifests: Sequence[str | Path], data: DataConfig, *, precision: str = "32") -> States:
    """What metrics are computed from, such as a confusion matrix; see `evaluate`."""
    index = Index.read(manifests, target=task.target, skip_bad=data.skip_bad)
    device = next(task.parameters()).device
    with inference(task), find_precision(precision, device).autocast(device):
        return count(task, evaluation_loader(task, index, data), device)


def evaluation_loader(task: Task, index: Index, data: DataConfig) -> Loader:
    """The loader that gives every utterance once, over all ranks."""
    return Loader(index, data, task.encode, training=False, rank=ranks.rank(), world=ranks.world())


def count(task: Task, batches: Iterable[Sequence[Batch]], device: torch.device) -> States:
    """Adds the task's metric states over the batches of all ranks. The caller sets mode and precision."""
    states = {name: value.clone() for name, value in task.zero_states().items()}
    for step in batches:
        for batch in step:
            for name, value in task.evaluate(batch.to(device)).items():
                states[name] = states[name] + value
    ranks.sum_together(list(states.values()))
    return states


def measure(task: Task, batches: Iterable[Sequence[Batch]], device: torch.device) -> dict[str, float]:
    """Returns the task's metrics over the batches of all ranks. The caller sets mode and precision."""
    return task.summarize(count(task, batches, device))
