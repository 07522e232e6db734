"""Processes that read ahead, and what is said when the system ends one of them."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from anemone.data.epochs import Key
from anemone.data.reader import Loaded, pack, unpack
from anemone.errors import DataError

ADVICE = {
    signal.SIGKILL: "more memory was asked for than there is: lower `data.num_workers` or `data.cache_mb`",
    signal.SIGBUS: "there is no more room in /dev/shm: enlarge it, or set `data.num_workers=0`",
    signal.SIGSEGV: "a recording or a library broke it: `data.num_workers=0` shows which",
}
"""What most often stands behind a signal."""


class Workers:
    """Processes that make micro-batches, in order; they live as long as this does.

    Args:
        reader: makes one.
        number: of processes.
    """

    def __init__(self, reader: "Dataset[Loaded]", number: int) -> None:
        self._keys = _Keys()
        self._loader: DataLoader[Any] = DataLoader(
            reader,
            batch_size=None,
            sampler=self._keys,
            num_workers=number,
            persistent_workers=True,
            collate_fn=pack,
            generator=torch.Generator(),  # or each epoch would draw from the global one
        )
        self._processes: list[BaseProcess] = []

    def load(self, keys: list[Key], name: Callable[[int], str]) -> Iterator[Loaded]:
        """Yields a micro-batch for each key.

        Args:
            keys: copies and rows of each.
            name: number of a row -> what people call it.

        Raises:
            DataError: the system ended a process.
        """
        self._keys.keys, given = keys, 0
        try:
            for packed in self._started():
                yield unpack(packed)
                given += 1
        except (RuntimeError, OSError, EOFError) as error:
            for process in self._processes:
                process.join(0.2)
            ended = [process.exitcode for process in self._processes if process.exitcode]
            if not ended:
                raise
            rows = keys[min(given, len(keys) - 1)][1]
            raise DataError(
                f"a process that reads data was ended by {_cause(ended[0])}. It or another was to read "
                f"{name(int(rows[0]))} with {len(rows) - 1} more."
            ) from error

    def _started(self) -> Iterator[Any]:
        """Begins an epoch, the first time with new processes.

        PyTorch asks to be told at once when a process ends, and raises an error wherever the main process happens to
        be: in the middle of a step, in a finalizer. We leave that signal as it was. What waits for a micro-batch looks
        every few seconds whether its processes live, so the error comes there and nowhere else.
        """
        before, others = signal.getsignal(signal.SIGCHLD), set(multiprocessing.active_children())
        started = iter(self._loader)
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        self._processes = self._processes or [p for p in multiprocessing.active_children() if p not in others]
        return started


class _Keys(Sampler[Key]):
    """Hands out the micro-batches of the epoch that is asked for now."""

    def __init__(self) -> None:
        self.keys: list[Key] = []

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _cause(code: int) -> str:
    """What an exit code says: a signal, where it is negative."""
    if code > 0:
        return f"itself, with exit status {code}"
    found = signal.Signals(-code)
    return found.name + (f"; most often {ADVICE[found]}" if found in ADVICE else "")
