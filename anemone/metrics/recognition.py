"""What a recogniser gets right and wrong: error rates with intervals, slices, the commonest mistakes, two systems.

All is computed from utterances of which reference and hypothesis are known as text, however they came about.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anemone.metrics.bootstrap import Counts, compare, interval
from anemone.metrics.wer import Edits, Step, align, alignment

TOP = 10  # of the commonest mistakes
QUARTERS = 4
FEW = 12  # different numbers at most that are shown one by one; of more, quarters

Tree = dict[str, Any]


class Heard(NamedTuple):
    """An utterance with what was said and what was understood."""

    id: str
    """Its name."""

    reference: str
    """What was said."""

    hypothesis: str
    """What was understood."""

    columns: Mapping[str, Any]
    """Further columns of its manifest, for slices."""

    recording: tuple[str, float] = ("", 0.0)
    """Where it lies, and from which second on."""


def report(heard: Sequence[Heard], by: Sequence[str] = (), *, plain: Callable[[str], str]) -> Tree:
    """Describes how good a system is.

    Args:
        heard: its answers.
        by: columns whose values the utterances are also grouped by, numbers in quarters.
        plain: takes from a text what a second rate forgives, such as `anemone.features.text.plain`.

    Returns:
        ``all`` (see `rates`), ``plain``, the same of plain texts, ``slices`` (column -> value -> rates),
        and ``confusions``, ``deleted``, ``inserted``: the commonest mistakes and how often each was made.
    """
    words, characters = _counts(heard, str.split), _counts(heard, list)
    groups = {column: _groups([row.columns.get(column) for row in heard]) for column in by}
    return {
        "all": rates(words, characters),
        "plain": overall(
            [row._replace(reference=plain(row.reference), hypothesis=plain(row.hypothesis)) for row in heard]
        ),
        "slices": {
            column: {name: rates(words[at], characters[at]) for name, at in found.items()}
            for column, found in groups.items()
        },
        **mistakes(heard),
    }


def overall(heard: Sequence[Heard]) -> Tree:
    """Returns the `rates` of all answers of a system."""
    return rates(_counts(heard, str.split), _counts(heard, list))


def rates(words: Counts, characters: Counts) -> Tree:
    """Returns error rates of words and characters with their intervals, and the share of each kind of edit.

    Args:
        words: (N, 4) the fields of `Edits` of each utterance.
        characters: (N, 4) likewise.
    """
    found = Edits(*map(int, words.sum(0)))
    length = max(found.length, 1)
    return {
        "utterances": len(words),
        "words": found.length,
        "wer": found.rate,
        "wer_interval": list(interval(_errors(words))),
        "substitutions": found.substitutions / length,
        "deletions": found.deletions / length,
        "insertions": found.insertions / length,
        "cer": Edits(*map(int, characters.sum(0))).rate,
        "cer_interval": list(interval(_errors(characters))),
        "sentences_wrong": float((words[:, :3].sum(1) > 0).mean()),
    }


def mistakes(heard: Iterable[Heard]) -> Tree:
    """Counts words taken for others, left out and put in; returns the commonest, most frequent first."""
    steps: Counter[Step] = Counter()
    for row in heard:
        steps.update(s for s in alignment(row.hypothesis.split(), row.reference.split()) if s[0] != s[1])
    ranked = sorted(steps.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))
    return {
        "confusions": [{"word": a, "taken_for": b, "times": n} for (a, b), n in ranked if a and b][:TOP],
        "deleted": [{"word": a, "times": n} for (a, b), n in ranked if b is None][:TOP],
        "inserted": [{"word": b, "times": n} for (a, b), n in ranked if a is None][:TOP],
    }


def contrast(first: Sequence[Heard], second: Sequence[Heard]) -> Tree:
    """Compares two systems over the same utterances, in the same order.

    Args:
        first: answers of the one.
        second: answers of the other.

    Returns:
        ``wer`` and ``cer``, each with ``difference`` (second less first), its ``interval`` and the ``p_value``;
        ``better``, ``equal`` and ``worse``: utterances where the second makes fewer, as many and more word errors.
    """
    found: Tree = {}
    sides = [(_counts(first, cut), _counts(second, cut)) for cut in (str.split, list)]
    for name, (a, b) in zip(("wer", "cer"), sides, strict=True):
        told = compare(_errors(a), _errors(b))
        found[name] = {"difference": told.difference, "interval": list(told.interval), "p_value": told.p_value}
    fewer = np.sign(_errors(sides[0][1])[:, 0] - _errors(sides[0][0])[:, 0])
    names = (("better", -1), ("equal", 0), ("worse", 1))
    return found | {name: int((fewer == sign).sum()) for name, sign in names}


def _counts(heard: Sequence[Heard], cut: Callable[[str], Sequence[str]]) -> Counts:
    """(N, 4) the fields of `Edits` of each utterance."""
    counts = [align(cut(row.hypothesis), cut(row.reference)) for row in heard]
    return np.array(counts, dtype=np.int64).reshape(-1, len(Edits._fields))


def _errors(counts: Counts) -> Counts:
    """(N, 2) edits and length."""
    return np.stack([counts[:, :3].sum(1), counts[:, 3]], 1)


def _groups(values: Sequence[Any]) -> dict[str, list[int]]:
    """Value -> rows that have it; many different numbers become four ranges that hold as many rows each."""
    numbers = [v for v in values if _is_number(v)]
    edges = np.quantile(numbers, np.linspace(0, 1, QUARTERS + 1)) if len(set(numbers)) > FEW else np.zeros(0)
    found: dict[tuple[float, str], list[int]] = {}
    for i, value in enumerate(values):
        if not _is_number(value):
            key = (np.inf, "(none)" if value is None else str(value))
        elif len(edges):
            at = int(np.clip(np.searchsorted(edges, value, side="right") - 1, 0, QUARTERS - 1))
            key = (at, f"{edges[at]:.4g} to {edges[at + 1]:.4g}")
        else:
            key = (value, str(value))
        found.setdefault(key, []).append(i)
    return {name: rows for (_, name), rows in sorted(found.items())}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
