"""What people do with models. A task joins network, labels or tokenizer, loss and metrics, and owns the verbs.

`build` makes a task of configs, `save` writes it down and `load` brings it back, from anemone's archives, from NeMo's,
or by the name of a pretrained model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anemone.checkpoint.archive import Archive, Read, read_archive, write_archive
from anemone.checkpoint.fit import at_most, load_tensors_into
from anemone.checkpoint.registry import resolve
from anemone.config import EMPTY, Tree, decode, of_kind
from anemone.decoding import DECODERS
from anemone.errors import AnemoneError, ArchiveError
from anemone.features import FEATURES
from anemone.losses import LOSSES
from anemone.models import MODELS
from anemone.tasks import adapting
from anemone.tasks.description import describe
from anemone.tasks.task import Task

TASKS = {
    "classification": "anemone.tasks.classification:ClassificationConfig",
    "language_modelling": "anemone.tasks.language_modelling:LanguageModellingConfig",
    "pretraining": "anemone.tasks.pretraining:PretrainingConfig",
    "recognition": "anemone.tasks.recognition:RecognitionConfig",
}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The configs a task is built from: the part of an experiment that goes into an archive."""

    task: Any = of_kind(TASKS)
    """What the model is for."""

    model: Any = of_kind(MODELS)
    """The encoder of speech, or the model of text."""

    features: Any = of_kind(FEATURES, optional=True)
    """What the encoder of speech sees; null for text."""

    loss: Any = of_kind(LOSSES, optional=True)
    """What training makes small; the usual one of the task if left out."""

    decoding: Any = of_kind(DECODERS, optional=True)
    """How the scores are read; the usual way of the task if left out."""


def build(
    task: Any,
    model: Any,
    features: Any = None,
    *,
    loss: Any = None,
    decoding: Any = None,
    files: Mapping[str, bytes] = EMPTY,
) -> Task:
    """Builds a task with random weights from decoded configs.

    Args:
        task: one of `TASKS`.
        model: one of `anemone.models.MODELS`.
        features: one of `anemone.features.FEATURES`; None for tasks of text.
        loss: one of `anemone.losses.LOSSES`, or None for the usual one.
        decoding: one of `anemone.decoding.DECODERS`, or None for the usual one.
        files: what a tokenizer reads, by name.

    Raises:
        ConfigError: labels or tokenizer are missing or impossible.
        PortError: features, model and head do not fit.
    """
    parts = Parts(task=task, model=model, features=features, loss=loss, decoding=decoding)
    built: Task = task.build(parts, files)
    return built


def rebuild(tree: Tree, files: Mapping[str, bytes] = EMPTY) -> Task:
    """Builds a task with random weights from the tree `Task.config_tree` gave."""
    parts = decode(Parts, {name: value for name, value in tree.items() if name != adapting.ADAPTERS})
    task = build(parts.task, parts.model, parts.features, loss=parts.loss, decoding=parts.decoding, files=files)
    for config in adapting.decoded(tree):
        adapting.attach(task, config)
    return task


def load(source: str | Path, *, base: str | Path | None = None) -> Task:
    """Loads a task, ready to use: in evaluation mode, on the CPU.

    Args:
        source: the path of an archive (a folder, a ``.anemone`` or a ``.nemo`` file), or a name of a pretrained model.
        base: of an archive of adapters, where the model is that they hang on; where it was by default.

    Raises:
        ArchiveError: not found, broken, hostile, or its weights are not finite or do not fit its config.
    """
    path = resolve(source)
    archive = adapting.on_base(read_archive(path), path, base)
    try:
        with at_most(sum(tensor.numel() for tensor in archive.tensors.values())), torch.device("meta"):
            task = rebuild(archive.config, archive.files)  # costs no memory, whatever a stranger's config asks for
        if task.lazy:  # no first weights are drawn, which takes minutes for large models
            task.network.to_empty(device="cpu")
            task.network.tie()  # type: ignore[operator]  # a model of text has it
        else:
            task = rebuild(archive.config, archive.files)
        load_tensors_into(task.network, archive.tensors)
        _refuse_nonfinite(task.network)
    except AnemoneError as error:
        raise ArchiveError(f"`{path}` cannot be used: {error}") from error
    return task.eval()


def _refuse_nonfinite(network: torch.nn.Module) -> None:
    """Raises ArchiveError if a weight or buffer is infinite or not a number: every answer would be."""
    for name, tensor in network.state_dict().items():
        if not tensor.sum().isfinite() and not tensor.isfinite().all():  # the sum is quick, but may overflow
            raise ArchiveError(f"`{name}` must be finite, but holds infinite values or values that are no numbers.")


def save(
    task: Task,
    path: str | Path,
    *,
    notes: Mapping[str, Any] = EMPTY,
    stored: tuple[dict[str, Tensor], Read] | None = None,
) -> None:
    """Writes a task as an archive: config, weights, files of the tokenizer, and a model card.

    Of a task with a ``base`` only the weights are written that differ from it.

    Args:
        task: any task.
        path: a folder to be made, or one file where it ends in ``.anemone``.
        notes: what the card says about where the model comes from; see `anemone.tasks.description.describe`.
        stored: the weights, where the task has not all of them itself: stand-ins by name, and what reads one.
    """
    tensors, read = stored or ({n: t.detach().cpu() for n, t in task.network.state_dict().items()}, None)
    card = describe(task, Path(path).stem, notes)
    archive = Archive(task.config_tree(), tensors, task.files(), card)
    write_archive(path, adapting.small(archive, task.base, read) if task.base else archive, read)
