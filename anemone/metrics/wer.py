"""Word and character error rates: edits between what was said and what was recognised, per word or character said."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Step = tuple[str | None, str | None]
"""An item of a reference and the item of a hypothesis that stands for it; None where there is none."""


class Edits(NamedTuple):
    """Counts that add; `Edits.of` reads them back from a tensor."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    length: int = 0
    """Words or characters of the references."""

    @classmethod
    def of(cls, counts: Tensor) -> "Edits":
        """Reads a state made by `word_edits` or `character_edits`."""
        return cls(*(int(count) for count in counts.tolist()))

    @property
    def rate(self) -> float:
        """Edits per reference item; infinite where there is no reference but edits, 0 where there is neither."""
        edits = self.substitutions + self.deletions + self.insertions
        return edits / self.length if self.length else (math.inf if edits else 0.0)


def word_edits(hypotheses: Iterable[str], references: Iterable[str]) -> Tensor:
    """Counts the word edits of texts.

    Example:
        >>> Edits.of(word_edits(["he was not ill"], ["he was not an ill man"]))
        Edits(substitutions=0, deletions=2, insertions=0, length=6)

    Returns:
        (4,) int64, the fields of `Edits`, summed over the texts; such states add.

    Raises:
        ValueError: there are not as many hypotheses as references.
    """
    return _total(align(h.split(), r.split()) for h, r in zip(hypotheses, references, strict=True))


def character_edits(hypotheses: Iterable[str], references: Iterable[str]) -> Tensor:
    """Counts the character edits of texts, spaces included; otherwise as `word_edits`."""
    return _total(align(h, r) for h, r in zip(hypotheses, references, strict=True))


def wer(hypotheses: Iterable[str], references: Iterable[str]) -> float:
    """Computes the word error rate of a corpus; words are what whitespace separates.

    Example:
        >>> wer(["hello word"], ["hello world"])
        0.5
    """
    return Edits.of(word_edits(hypotheses, references)).rate


def cer(hypotheses: Iterable[str], references: Iterable[str]) -> float:
    """Computes the character error rate of a corpus."""
    return Edits.of(character_edits(hypotheses, references)).rate


def _total(edits: Iterable[Edits]) -> Tensor:
    counts = [list(e) for e in edits]
    return torch.tensor(counts or [list(Edits())], dtype=torch.int64).sum(0)


def align(hypothesis: Sequence[str], reference: Sequence[str]) -> Edits:
    """Counts the edits of a shortest way from ``reference`` to ``hypothesis``.

    Equal ends are cut off first, so that of several shortest ways the one is counted that jiwer counts.
    """
    ours, theirs, _ = _middles(hypothesis, reference)
    steps = _walk_back(ours, theirs, _distances(ours, theirs))
    deletions, insertions = (sum(step[side] is None for step in steps) for side in (1, 0))
    substitutions = sum(None not in step and step[0] != step[1] for step in steps)
    return Edits(substitutions, deletions, insertions, len(reference))


def alignment(hypothesis: Sequence[str], reference: Sequence[str]) -> list[Step]:
    """Returns the shortest way that `align` counts, step by step.

    Example:
        >>> alignment("he not ill".split(), "he was not well".split())
        [('he', 'he'), ('was', None), ('not', 'not'), ('well', 'ill')]

    Returns:
        pairs (item of the reference, item of the hypothesis); None stands for what the other side lacks.
    """
    ours, theirs, head = _middles(hypothesis, reference)
    steps = _walk_back(ours, theirs, _distances(ours, theirs))
    same: list[Step] = [(item, item) for item in reference]
    return [*same[:head], *steps, *same[head + len(theirs) :]]


def _middles(hypothesis: Sequence[str], reference: Sequence[str]) -> tuple[Sequence[str], Sequence[str], int]:
    """Both without their equal ends, and how many items the first of these have."""
    shorter = min(len(hypothesis), len(reference))
    head = next((i for i in range(shorter) if hypothesis[i] != reference[i]), shorter)
    hypothesis, reference = hypothesis[head:], reference[head:]
    shorter -= head
    tail = next((i for i in range(shorter) if hypothesis[-1 - i] != reference[-1 - i]), shorter)
    return hypothesis[: len(hypothesis) - tail], reference[: len(reference) - tail], head


def _distances(hypothesis: Sequence[str], reference: Sequence[str]) -> list[tuple[int, int]]:
    """The matrix of edit distances, a row per item of ``hypothesis``.

    A row is two integers whose bits say where the distance grows and where it falls from one reference item to the
    next (Hyyrö 2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances", figure 3), and
    costs a dozen operations on integers of as many bits as the reference has items.
    """
    where: dict[str, int] = {}
    for i, item in enumerate(reference):
        where[item] = where.get(item, 0) | 1 << i
    full = (1 << len(reference)) - 1
    grows, falls, rows = full, 0, []
    for item in hypothesis:
        same = where.get(item, 0)
        diagonal = (((same & grows) + grows) ^ grows) | same | falls
        down, up = falls | ~(diagonal | grows), diagonal & grows
        down = down << 1 | 1
        grows, falls = (up << 1 | ~(diagonal | down)) & full, down & diagonal & full
        rows.append((grows, falls))
    return rows


def _walk_back(hypothesis: Sequence[str], reference: Sequence[str], rows: list[tuple[int, int]]) -> list[Step]:
    """The steps from the last corner back, put in order; of several shortest ways, the one that deletes last."""
    row, col = len(hypothesis), len(reference)
    steps: list[Step] = []
    while row and col:
        if rows[row - 1][0] >> (col - 1) & 1:
            col -= 1
            steps.append((reference[col], None))
        elif row > 1 and rows[row - 2][1] >> (col - 1) & 1:
            row -= 1
            steps.append((None, hypothesis[row]))
        else:
            row, col = row - 1, col - 1
            steps.append((reference[col], hypothesis[row]))
    steps += [(item, None) for item in reversed(reference[:col])]
    steps += [(None, item) for item in reversed(hypothesis[:row])]
    return steps[::-1]
