"""Data sets against the rules: what is wrong, in which rows, and which rows are good."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anemone.config import nearest
from anemone.data.columns import Columns
from anemone.data.manifest import Index
from anemone.data.problems import Problem
from anemone.data.quality.copies import check_copies, check_sets
from anemone.data.quality.rules import RULES, SEVERITIES, Found
from anemone.data.quality.sound import Measures, check_sound, measure
from anemone.data.quality.stats import spread
from anemone.data.quality.texts import check_lines
from anemone.errors import ConfigError

EXAMPLES = 20  # of the rows that break a rule, in a report


class Finding(NamedTuple):
    """A row that breaks a rule."""

    rule: str
    set: str
    source: str
    line: int
    audio: str
    detail: str


@dataclass(frozen=True)
class Report:
    """What is wrong with some sets.

    Attributes:
        sets: by name, in the order they were given.
        found: what breaks a rule, by set.
        measures: of the recordings, by set; empty if they were not read.
        ignore: rules that may be broken.
    """

    sets: Mapping[str, Index]
    found: Mapping[str, list[Found]]
    measures: Mapping[str, Measures]
    ignore: Collection[str] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Rows that break each rule, the worst rules first; rules that nothing breaks are left out."""
        numbers = Counter({"unusable-line": sum(len(index.problems) for index in self.sets.values())})
        for found in (found for parts in self.found.values() for found in parts):
            numbers[found.rule] += len(found.rows)
        return {
            rule: numbers[rule]
            for severity in SEVERITIES
            for rule in of(severity)
            if numbers[rule] and rule not in self.ignore
        }

    def number(self, severity: str) -> int:
        """Findings of a severity."""
        return sum(count for rule, count in self.counts.items() if RULES[rule].severity == severity)

    def good(self, name: str) -> npt.NDArray[np.int64]:
        """Returns the rows of a set in which no error was found."""
        keep = np.ones(len(self.sets[name]), np.bool_)
        for found in self.found[name]:
            if RULES[found.rule].severity == "error":
                keep[found.rows] = False
        return np.flatnonzero(keep)

    def findings(self, rule: str | None = None, most: int | None = None) -> Iterator[Finding]:
        """Yields findings with their rows, set by set.

        Args:
            rule: only of this rule.
            most: of each rule and set.
        """
        for name, index in self.sets.items():
            if rule in (None, "unusable-line") and "unusable-line" not in self.ignore:
                for problem in index.problems[:most]:
                    yield Finding("unusable-line", name, *Problem(*problem)[:2], "", problem.cause)
            for found in self.found[name]:
                if rule not in (None, found.rule):
                    continue
                for start in range(0, len(found.rows[:most]), 1000):
                    stop = min(start + 1000, len(found.rows[:most]))
                    rows, values = index.rows(found.rows[start:stop]), found.values[start:stop]
                    for row, value in zip(rows, values, strict=True):
                        yield Finding(found.rule, name, row.source, row.line, row.audio, found.say(value))

    def as_dict(self, examples: int = EXAMPLES) -> dict[str, Any]:
        """Returns the report, plain enough for JSON.

        Args:
            examples: findings of each rule and set that are written out.
        """
        return {
            "sets": {name: self._set(name) for name in self.sets},
            "errors": self.number("error"),
            "warnings": self.number("warning"),
            "rules": {
                rule: {
                    **RULES[rule]._asdict(),
                    "count": count,
                    "examples": [finding._asdict() for finding in self.findings(rule, examples)],
                }
                for rule, count in self.counts.items()
            },
        }

    def _set(self, name: str) -> dict[str, Any]:
        """Size and distributions of a set."""
        index = self.sets[name]
        columns = Columns(index)
        spreads = {"seconds": spread(columns["duration"].to_numpy())}
        if "text" in columns:
            spreads["characters per second"] = spread(columns["char_rate"].to_numpy())
        if name in self.measures:
            known = self.measures[name]["cause"] == 0
            level = 20 * np.log10(np.maximum(self.measures[name]["rms"][known], 1e-5))
            spreads["level in dB of full scale"] = spread(level)
        good = self.good(name)
        return {
            "rows": len(index),
            "good": len(good),
            "left_out": len(index.problems),
            "hours": index.seconds / 3600,
            "recordings_read": name in self.measures,
            "spreads": spreads,
        }


def of(severity: str) -> list[str]:
    """Returns the rules of a severity."""
    return [name for name, rule in RULES.items() if rule.severity == severity]


def validate(
    sets: Mapping[str, Index],
    *,
    audio: bool = True,
    near: bool = False,
    jobs: int = 2,
    ignore: Collection[str] = (),
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Returns what is wrong with some sets that should have nothing in common, such as training and test.

    Args:
        sets: by name.
        audio: whether to decode the recordings.
        near: whether to look for pieces that sound alike though their samples differ.
        jobs: threads that decode.
        ignore: rules that may be broken.
        progress: is told how many more pieces are decoded.

    Raises:
        ConfigError: there is no rule of a name in ``ignore``.
    """
    for rule in ignore:
        if rule not in RULES:
            raise ConfigError(f"`{rule}` is not a rule.{nearest(rule, RULES)} There are: {', '.join(RULES)}.")
    columns = {name: Columns(index) for name, index in sets.items()}
    measures = {name: measure(index, jobs=jobs, progress=progress) for name, index in sets.items() if audio}
    found = {name: list(check_lines(columns[name])) for name in sets}
    for name in measures:
        found[name] += check_sound(columns[name], measures[name])
        found[name] += check_copies(columns[name], measures[name], near=near)
    for name, common in check_sets(columns, measures):
        found[name].append(common)
    kept = {
        name: [part for part in parts if len(part.rows) and part.rule not in ignore] for name, parts in found.items()
    }
    return Report(sets, kept, measures, ignore)
