"""What is wrong with data: said once, where it stands, and left out or refused."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from anemone.errors import DataError

SHOWN = 20  # problems written out before the rest is only counted
HOPELESS = 100  # pieces of data in a row from the start that cannot be used before training gives up

log = logging.getLogger("anemone.data")


class Problem(NamedTuple):
    """A piece of data that cannot be used: where it stands and why."""

    file: str
    line: int
    cause: str

    def __str__(self) -> str:
        """``file:line: cause``."""
        return f"{self.file}:{self.line}: {self.cause}"


def report(problems: Sequence[Problem], total: int, *, skip_bad: bool, noun: str = "utterance") -> None:
    """Says what is left out and why, or refuses it.

    Raises:
        DataError: there is a problem and ``skip_bad`` is false.
    """
    if not problems:
        return
    if not skip_bad:
        more = f" ({len(problems)} such {noun}s)" if len(problems) > 1 else ""
        first = str(problems[0]).rstrip(".")
        raise DataError(f"{first}{more}. Mend or remove them, or set `data.skip_bad=true` to leave them out.")
    for problem in problems[:SHOWN]:
        log.warning("%s", problem)
    log.warning("left out %d of %d %ss%s", len(problems), total, noun, "" if len(problems) <= SHOWN else ", as above")


def none_usable(number: int, problems: Sequence[Problem], *, noun: str = "utterance") -> DataError:
    """The error that nothing could be used, with the first cause that this process knows."""
    first = f"; the first: {problems[0]}" if problems else ""
    return DataError(f"none of {number} {noun}s could be used{first}")


def no_utterances(names: Sequence[str], problems: Sequence[Problem]) -> DataError:
    """The error that sets have no utterance to use, with the first cause."""
    first = f" The first cause: {str(problems[0]).rstrip('.')}." if problems else ""
    places = ", ".join(f"`{name}`" for name in names)
    return DataError(f"{places} must hold utterances, but there is none to use.{first}")


def say_left_out(number: int, total: int, *, noun: str = "utterance") -> None:
    """Warns that some of the data were left out."""
    log.warning("left out %d of %d %ss in all", number, total, noun)
