"""How far long work on a data set is: a bar in a terminal, elsewhere a line now and then; on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

EVERY = 10.0  # seconds between lines where there is no terminal


@contextmanager
def bar(noun: str = "utterances") -> Iterator[Callable[[int, int], None]]:
    """Gives what is to be told: how many more are done, of how many in all."""
    if not sys.stderr.isatty():
        yield _Lines(noun)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = BarColumn(), MofNCompleteColumn(), TextColumn(noun), TimeElapsedColumn(), TextColumn("left:")
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def tell(more: int, total: int) -> None:
            progress.update(task, total=total, advance=more)

        yield tell


class _Lines:
    """Prints a line every ten seconds."""

    def __init__(self, noun: str) -> None:
        self.noun, self.done = noun, 0
        self.begun = self.said = time.monotonic()
        self.before: int | None = None

    def __call__(self, more: int, total: int) -> None:
        self.done += more
        if self.before is None:  # done when we came
            self.before = self.done
        now = time.monotonic()
        if now - self.said >= EVERY and self.done > self.before:
            self.said = now
            left = timedelta(seconds=round((now - self.begun) * (total - self.done) / (self.done - self.before)))
            print(f"{self.done} of {total} {self.noun}, {left} left", file=sys.stderr, flush=True)


def length(seconds: float) -> str:
    """Returns how much audio it is, in hours or seconds."""
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds:.1f} s"


def left_out(number: int, where: str) -> int:
    """Says how many rows could not be used, if any, and returns the exit status: 1 then, else 0."""
    if number:
        print(f"{number} could not be used and are left out: {where}", file=sys.stderr)
    return int(number > 0)
