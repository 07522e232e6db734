"""What adapting to a new domain gained there, and what it cost in the old one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from anemone.errors import DataError
from anemone.tasks.task import Task
from anemone.training.evaluation import evaluate


class Change(NamedTuple):
    """A metric on a set, before and after."""

    set: str
    metric: str
    before: float
    after: float

    @property
    def relative(self) -> float:
        """How much it grew, as a share of what it was; 0 where that was 0."""
        return (self.after - self.before) / self.before if self.before else 0.0


def before_and_after(
    before: Task, after: Task, sets: Mapping[str, Sequence[str | Path]], *, batch_size: int = 32
) -> list[Change]:
    """Measures two models on the same data.

    Args:
        before: the model that was adapted.
        after: what became of it.
        sets: name of a domain -> manifests, such as ``{"old": [...], "new": [...]}``.
        batch_size: utterances at once.

    Raises:
        DataError: there is no set, or one holds nothing to use.
    """
    if not sets:
        raise DataError("`sets` must name at least one domain.")
    changes = []
    for name, manifests in sets.items():
        first, second = (evaluate(task, manifests, batch_size=batch_size) for task in (before, after))
        changes += [Change(name, metric, first[metric], second[metric]) for metric in first if metric in second]
    return changes


def table_of(changes: Sequence[Change], metrics: Sequence[str] = ()) -> str:
    """A table in Markdown, of some metrics or of all.

    Example:
        >>> print(table_of([Change("new", "wer", 0.5, 0.25)]))
        | set | metric | before | after | change |
        |---|---|--:|--:|--:|
        | new | wer | 0.5 | 0.25 | -50.0% |
    """
    rows = [
        f"| {c.set} | {c.metric} | {c.before:.4g} | {c.after:.4g} | {c.relative:+.1%} |"
        for c in changes
        if not metrics or c.metric in metrics
    ]
    return "\n".join(["| set | metric | before | after | change |", "|---|---|--:|--:|--:|", *rows])
