"""How good a task is: metric states added over batches and ranks, then summed up."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anemone.config import must
from anemone.data import DataConfig, Examples, MicroBatch, StepLoader
from anemone.data.batch import Batch
from anemone.data.kaldi.cmvn import Norm
from anemone.data.kaldi.dataset import brings_features
from anemone.data.kaldi.loader import KaldiDataConfig
from anemone.data.manifest import Index
from anemone.data.problems import none_usable
from anemone.metrics.recognition import Heard
from anemone.tasks.recognition import RecognitionTask
from anemone.tasks.speech import SpeechTask
from anemone.tasks.task import States as States
from anemone.tasks.task import Task, inference
from anemone.training import ranks
from anemone.training.precision import precision as find_precision
from anemone.training.share import Share

COUNTS = ("utterances", "sequences", "left_out")
"""What `count` may add to a task's states and `summarize` to its metrics."""


def evaluate(
    task: Task,
    manifests: Sequence[str | Path],
    *,
    batch_size: int = 32,
    channel: int | None = None,
    num_workers: int = 0,
    precision: str = "32",
    skip_bad: bool = True,
    cmvn: Norm = "none",
) -> dict[str, float]:
    """Measures a task on data it knows the answers to, on the device it is on.

    Args:
        task: any task.
        manifests: paths; of texts where the task is one of text, of features where `evaluation_data` says so;
            ``assets/...`` is looked up inside the package.
        batch_size: utterances or sequences a batch. No metric depends on it, unless the head pools over padding:
            models out of NeMo's archives do; with 1 they hear each recording alone.
        channel: which channel of the recordings to take, from 0; the mean of all if None.
        num_workers: processes that read ahead.
        precision: of the products.
        skip_bad: whether utterances that cannot be used are reported and left out, or refused.
        cmvn: what features are normalised by, where they are Kaldi's.

    Raises:
        DataError: a manifest does not exist or holds nothing to use.
    """
    data = evaluation_data(
        task,
        manifests,
        batch_size=batch_size,
        channel=channel,
        num_workers=num_workers,
        skip_bad=skip_bad,
        cmvn=cmvn,
    )
    return summarize(task, states_of(task, manifests, data, precision=precision))


def evaluation_data(
    task: Task,
    manifests: Sequence[str | Path],
    *,
    batch_size: int,
    channel: int | None = None,
    num_workers: int = 0,
    skip_bad: bool = True,
    cmvn: Norm = "none",
) -> Any:
    """Returns how data are read to measure a task on them; arguments are those of `evaluate`.

    They are Kaldi's features where all paths are of a ``feats.scp`` or of a data directory without ``wav.scp``, or
    where the model hears no recordings.

    Raises:
        ConfigError: a setting that means nothing for the data.
    """
    if isinstance(task, SpeechTask) and (not task.hears or all(map(brings_features, manifests))):
        must(channel is None, "channel", "left out where features are read", value=channel)
        hop_ms = task.parts.features.hop_ms
        return KaldiDataConfig(
            hop_ms=hop_ms, cmvn=cmvn, eval_batch_size=batch_size, num_workers=num_workers, skip_bad=skip_bad
        )
    must(cmvn == "none", "cmvn", "none, as the data are no features", value=cmvn)
    return task.evaluation_data(batch_size=batch_size, channel=channel, num_workers=num_workers, skip_bad=skip_bad)


def states_of(task: Task, manifests: Sequence[str | Path], data: DataConfig, *, precision: str = "32") -> States:
    """What metrics are computed from, such as a confusion matrix; see `evaluate`."""
    return _states(task, data.read(manifests, task.parts.task, task.files()), data, precision, task.evaluate)


def heard(
    task: RecognitionTask, manifests: Sequence[str | Path], data: DataConfig, *, precision: str = "32"
) -> tuple[States, list[Heard]]:
    """What metrics are computed from, and what the task made of each utterance; see `evaluate`.

    The references are the texts of the manifests as they stand there.
    """
    index = data.read(manifests, task.parts.task, task.files())
    assert isinstance(index, Index)
    found: dict[int, str] = {}

    def evaluate(batch: Batch) -> States:
        output = task.output(batch)
        transcripts = task.transcripts(output)
        found.update(zip(batch.rows.tolist(), (transcript.text for transcript in transcripts), strict=True))
        return task.scored(output, batch, transcripts)

    states = _states(task, index, data, precision, torch.no_grad()(evaluate))
    numbers = sorted(found)
    columns = index.values(numbers, index.columns)
    rows = zip(numbers, index.rows(numbers), columns, strict=True)
    return states, [
        Heard(row.id, row.target, found[i], {"duration": row.duration, **more}, (row.audio, row.offset))
        for i, row, more in rows
    ]


def _states(task: Task, index: Any, data: DataConfig, precision: str, evaluate: Callable[[Any], States]) -> States:
    device = next(task.parameters()).device
    with inference(task), find_precision(precision, device).autocast(device, laid_out=False):
        return count(task, evaluation_loader(task, index, data), device, evaluate=evaluate)


def evaluation_loader(
    task: Task, index: Examples, data: DataConfig, shared: Any = None, *, place: tuple[int, int] | None = None
) -> StepLoader:
    """The loader that gives every row once, over all ranks.

    Args:
        task: what is measured.
        index: the data.
        data: how they are read.
        shared: what several loaders read through.
        place: number of this rank among those that read different data, and how many do; all ranks by default.
    """
    rank, world = place or ranks.place(None)
    return data.loader(index, task.encode, training=False, rank=rank, world=world, shared=shared)


def count(
    task: Task,
    loader: StepLoader,
    device: torch.device,
    share: Share | None = None,
    *,
    evaluate: Callable[[Any], States] | None = None,
) -> States:
    """Adds the task's metric states over the batches of all ranks. The caller sets mode and precision.

    Beside the states of the task there are ``utterances`` or ``sequences``, those measured, and ``left_out``, lines.

    Args:
        task: what is measured.
        loader: of this rank.
        device: of this rank.
        share: how it takes part, where the network is laid out over several.
        evaluate: from a batch to the states; that of the task by default. Not where there is a share.

    Raises:
        DataError: no rank had a row to measure.
    """
    index = loader.index
    states, rows = added(task, (batch for step in loader for batch in step), device, share, evaluate=evaluate)
    if not rows:
        raise none_usable(len(index), loader.problems, noun=index.noun)
    return {**states, f"{index.noun}s": rows, "left_out": len(index) - rows + len(index.problems)}


def added(
    task: Task,
    batches: Iterable[MicroBatch],
    device: torch.device,
    share: Share | None = None,
    *,
    evaluate: Callable[[Any], States] | None = None,
) -> tuple[States, Tensor]:
    """Adds the task's metric states and counts the rows of all ranks' batches; arguments are those of `count`."""
    states = {name: value.clone() for name, value in task.zero_states().items()}
    rows = torch.zeros((), dtype=torch.int64, device=device)
    alone = (((evaluate or task.evaluate)(batch.to(device)), len(batch.rows)) for batch in batches)
    for found, number in share.measured(batches) if share else alone:
        rows += number
        states = {name: states[name] + value for name, value in found.items()}
    ranks.sum_together([*states.values(), rows], share.peers if share else ranks.ALL)
    return states, rows


def summarize(task: Task, states: States) -> dict[str, float]:
    """Returns the task's metrics, and how many rows they are of and how many were left out."""
    return task.summarize(states) | {name: int(states[name]) for name in COUNTS if name in states}


def told(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are worth telling a person: where nothing was left out, that is not.

    Example:
        >>> told({"valid/loss": 0.0, "valid/left_out": 0, "test/left_out": 3})
        {'valid/loss': 0.0, 'test/left_out': 3}
    """
    return {name: value for name, value in metrics.items() if value or name.rpartition("/")[2] != "left_out"}


def measure(task: Task, loader: StepLoader, device: torch.device, share: Share | None = None) -> dict[str, float]:
    """Returns the metrics over the batches of all ranks, see `count`. The caller sets mode and precision."""
    return summarize(task, count(task, loader, device, share))
