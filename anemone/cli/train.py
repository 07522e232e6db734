"""Train an experiment, or go on where it stopped: the same command continues.

  anemone train telephone_words_quartznet optim.lr=0.02 run.folder=runs/faster
  anemone train telephone_words_quartznet --multirun optim=adamw,lion run.seed=0,1

With --multirun each combination of the listed values is a run, in a folder named by them. A run that fails does not
stop the others, and a table says how each ended.

Ctrl-C and SIGTERM let the step end, save and leave, with status 130 and 0; a second Ctrl-C leaves at once.
"""

import argparse
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anemone.cli.config import add_experiment
from anemone.config import must
from anemone.training.settings import experiment


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    add_experiment(parser)
    parser.add_argument("--multirun", action="store_true", help="a run for each combination of key=value1,value2,...")


def run(args: argparse.Namespace) -> int:
    """Trains, and says how it ended."""
    if args.multirun:
        from anemone.cli.multirun import multirun

        return multirun(args.experiment, args.overrides)
    config = experiment(args.experiment, args.overrides)
    folder = Path(config.run.folder)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    hint = f"`{there}` is a file."
    must(there.is_dir(), "run.folder", "a folder, or one that can be made", value=str(folder), hint=hint)
    from anemone.cli.table import table
    from anemone.training import ranks
    from anemone.training.evaluation import told
    from anemone.training.experiment import train

    with signals() as heard:
        result = train(config)
    if not result.finished:
        return 130 if signal.SIGINT in heard else 0
    if ranks.is_first() and result.metrics:
        print(table([{"metric": name, "value": value} for name, value in told(result.metrics).items()]))
    return 0


@contextmanager
def signals() -> Iterator[set[int]]:
    """Collects the numbers of the signals that came within the block, whoever handled them; complete after it."""
    heard: set[int] = set()
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield heard
        finally:
            signal.set_wakeup_fd(before)
            with suppress(BlockingIOError):
                heard.update(reader.recv(4096))
