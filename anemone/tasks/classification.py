"""Classification: which of a set of labels a whole recording bears, such as a command, a language or speech or not."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self
from unicodedata import category

import torch
from torch import Tensor

from anemone.config import must, nearest
from anemone.data.batch import Batch
from anemone.errors import DataError
from anemone.losses import LossSum
from anemone.losses.cross_entropy import CrossEntropy, CrossEntropyConfig
from anemone.metrics.confusion import accuracy, confusion, recall
from anemone.nn.heads import ClassificationHead, Pooling
from anemone.tasks.speech import SpeechTask

if TYPE_CHECKING:
    from anemone.data.manifest import Index
    from anemone.tasks import Parts

UNSEEN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, which move a terminal's cursor, surrogates, separators of lines


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """One label for a whole recording."""

    target: ClassVar[Literal["label", "text"]] = "label"
    """The column of a manifest that the task learns from."""

    data: ClassVar[str] = "speech"
    """The kind of data it learns from."""

    lazy: ClassVar[bool] = False
    """Whether the network can be built without memory, see `anemone.tasks.task.Task`."""

    labels: tuple[str, ...] = ()
    """The classes, in the order of the network's outputs; empty: those of the training manifests, sorted."""

    pooling: Pooling = "average"
    """How the frames of a recording become one vector; see `anemone.nn.heads.ClassificationHead`."""

    def __post_init__(self) -> None:
        unseen = [label for label in self.labels if not label.strip() or any(category(c) in UNSEEN for c in label)]
        must(not unseen, "labels", "words without control characters, none of them empty", value=unseen)
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        must(not twice, "labels", "all different", value=twice)
        must(len(self.labels) != 1, "labels", "two or more", value=self.labels)

    def complete(self, index: "Index") -> Self:
        """Returns the config with the labels of an index, where it has none itself."""
        return self if self.labels else replace(self, labels=tuple(index.labels))

    def build(self, parts: "Parts", files: Mapping[str, bytes]) -> "ClassificationTask":
        """Builds the task.

        Args:
            parts: the configs of the whole; cross entropy stands in for a loss that was left out.
            files: not read; a classifier has none.

        Raises:
            ConfigError: no labels, or a loss or decoding of another task.
        """
        must(len(self.labels) > 1, "task.labels", "set before the task is built", value=self.labels)
        loss = parts.loss or CrossEntropyConfig()
        must(isinstance(loss, CrossEntropyConfig), "loss", "of the kind cross_entropy for a classifier", value=loss)
        must(parts.decoding is None, "decoding", "left out for a classifier", value=parts.decoding)
        return ClassificationTask(replace(parts, loss=loss))


class Classification(NamedTuple):
    """What a recording was taken for."""

    label: str
    """The most probable label."""

    score: float
    """Its probability."""

    scores: dict[str, float]
    """The probability of each label."""


def _number_of(numbers: Mapping[str, int], label: str) -> list[int]:
    if label not in numbers:
        raise DataError(f"`{label}` is not one of the {len(numbers)} labels.{nearest(label, numbers)}")
    return [numbers[label]]


class ClassificationTask(SpeechTask):
    """Tells which label a recording bears.

    Example:
        >>> from anemone.testing import speech, tiny
        >>> task = tiny("classification")
        >>> result = task.classify([(speech(1.0), 16_000)])[0]
        >>> result.label in task.labels and 0 < result.score < 1
        True
    """

    target: ClassVar[Literal["label", "text"]] = ClassificationConfig.target
    verb: ClassVar[str] = "classify"
    monitor: ClassVar[tuple[str, Literal["max", "min"]]] = ("accuracy", "max")

    def __init__(self, parts: "Parts") -> None:
        config: ClassificationConfig = parts.task
        self.labels = config.labels
        super().__init__(parts, partial(ClassificationHead, num_classes=len(config.labels), pooling=config.pooling))
        self._criterion: CrossEntropy = parts.loss.build()

    @property
    def encode(self) -> Callable[[str], list[int]]:
        """What gives the number of a label, as a list of one; it raises DataError where it is not one of ``labels``."""
        return partial(_number_of, {label: number for number, label in enumerate(self.labels)})

    def lost(self, output: Tensor, batch: Batch) -> LossSum:
        """Computes the summed cross entropy and the number of recordings."""
        return self._criterion(output, batch.targets[:, 0])

    def measured(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Counts the confusions (V, V) and sums the loss."""
        total, count = self.lost(output, batch)
        matrix = confusion(output.argmax(-1), batch.targets[:, 0], len(self.labels))
        return {"loss": total.double(), "count": count.double(), "confusion": matrix}

    def zero_states(self) -> dict[str, Tensor]:
        """Returns an empty confusion matrix and zero sums."""
        num, device = len(self.labels), next(self.parameters()).device
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return {"loss": zero, "count": zero, "confusion": torch.zeros(num, num, dtype=torch.int64, device=device)}

    def summarize(self, states: Mapping[str, Tensor]) -> dict[str, float]:
        """Computes ``loss``, ``accuracy``, and ``mean_recall``, the accuracy if all labels were equally frequent."""
        matrix = states["confusion"]
        return {
            "loss": float(states["loss"] / states["count"].clamp(min=1)),
            "accuracy": accuracy(matrix),
            "mean_recall": float(recall(matrix).nanmean().nan_to_num(0.0)),
        }

    def classify(self, sources: Iterable[Path | str | Any], *, batch_size: int = 16) -> list[Classification]:
        """Tells the label of each recording, in input order.

        Args:
            sources: paths, pairs (array or tensor, its rate), or arrays and tensors already at ``rate``.
            batch_size: recordings that are computed at a time. No answer depends on it, unless the head pools over
                padding: models out of NeMo's archives do, there and here; with 1 they hear each recording alone.

        Raises:
            DataError: a recording cannot be read, or is empty; says which.
        """
        return self.answer(sources, batch_size, self._classified)

    def _classified(self, logits: Tensor) -> list[Classification]:
        rows = logits.float().softmax(-1).tolist()
        tables = [dict(zip(self.labels, row, strict=True)) for row in rows]
        return [Classification(best := max(t, key=t.__getitem__), t[best], t) for t in tables]
