"""What adapting to a new domain gained there, and what it cost in the old one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from anemone.errors import DataError
from anemone.metrics.recognition import overall
from anemone.tasks.recognition import RecognitionTask
from anemone.tasks.task import Task
from anemone.training import evaluation

Interval = tuple[float, float]


class Change(NamedTuple):
    """A metric on a set, before and after."""

    set: str
    metric: str
    before: float
    after: float
    intervals: tuple[Interval, Interval] | None = None
    """Where it lies in 95 % of the draws, before and after; of a recogniser's error rates."""

    @property
    def relative(self) -> float:
        """How much it grew, as a share of what it was; 0 where that was 0."""
        return (self.after - self.before) / self.before if self.before else 0.0


def before_and_after(
    before: Task, after: Task, sets: Mapping[str, Sequence[str | Path]], *, batch_size: int = 32
) -> list[Change]:
    """Measures two models on the same data.

    Error rates of recognisers compare with the texts as the manifests have them, as `anemone evaluate` does.

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
        (first, found), (second, again) = (_measured(task, manifests, batch_size) for task in (before, after))
        changes += [
            Change(
                name, metric, first[metric], second[metric], (found[metric], again[metric]) if metric in found else None
            )
            for metric in first
            if metric in second
        ]
    return changes


def _measured(
    task: Task, manifests: Sequence[str | Path], batch_size: int
) -> tuple[dict[str, float], dict[str, Interval]]:
    """The metrics, and the intervals of those that have one."""
    if not isinstance(task, RecognitionTask):
        return evaluation.evaluate(task, manifests, batch_size=batch_size), {}
    data = evaluation.evaluation_data(task, manifests, batch_size=batch_size)
    states, heard = evaluation.heard(task, manifests, data)
    rates = overall(heard)
    names = ("wer", "cer")
    metrics = evaluation.summarize(task, states) | {name: rates[name] for name in names}
    return metrics, {name: rates[f"{name}_interval"] for name in names}


def table_of(changes: Sequence[Change], metrics: Sequence[str] = ()) -> str:
    """A table in Markdown, of some metrics or of all, with the intervals of those that have them.

    Example:
        >>> print(table_of([Change("new", "wer", 0.5, 0.25, ((0.41, 0.6), (0.2, 0.3))), Change("new", "loss", 2, 1)]))
        | set | metric | before | after | change |
        |---|---|--:|--:|--:|
        | new | wer | 0.5 (0.41 to 0.6) | 0.25 (0.2 to 0.3) | -50.0% |
        | new | loss | 2 | 1 | -50.0% |
    """
    lines = ["| set | metric | before | after | change |", "|---|---|--:|--:|--:|"]
    for change in changes:
        if not metrics or change.metric in metrics:
            before, after = change.intervals or (None, None)
            cells = _cell(change.before, before), _cell(change.after, after), f"{change.relative:+.1%}"
            lines.append(f"| {change.set} | {change.metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float, interval: Interval | None) -> str:
    return f"{value:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else "")
