"""Where the units of a job are done: in this process, in several, or on a Ray cluster. The bytes are the same."""

import json
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from anemone.config import must
from anemone.data.jobs import Engine, Unit, Work, do
from anemone.errors import ConfigError, DataError

AHEAD = 3  # units that wait for each process
ENGINES = ("jobs", "ray")

_work: list[Work] = []  # of a process of the pool: sent once, for it may be large


def engine(name: str, jobs: int | None) -> Engine:
    """Returns what does units.

    Args:
        name: "jobs" for processes of this machine, "ray" for a cluster: the one that ``RAY_ADDRESS`` names, else this
            machine as one.
        jobs: number of processes; all cores if None.

    Raises:
        ConfigError: there is no such engine, or Ray is not installed.
    """
    must(name in ENGINES, "engine", f"one of {', '.join(ENGINES)}", value=name)
    must(jobs is None or jobs >= 1, "jobs", "1 or more", value=jobs)
    if name == "ray":
        return partial(_on_ray, jobs)
    count = jobs or len(os.sched_getaffinity(0))
    return _here if count == 1 else partial(_in_processes, count)


def _here(work: Work, numbers: Sequence[int], unit: Callable[[int], Unit], out: Path) -> Iterator[int]:
    for number in numbers:
        yield do(work, unit(number), out)


def _in_processes(
    jobs: int, work: Work, numbers: Sequence[int], unit: Callable[[int], Unit], out: Path
) -> Iterator[int]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["anemone.data.offline"])
    waiting: deque[int] = deque(numbers)
    running: set[Future[int]] = set()
    pool = ProcessPoolExecutor(min(jobs, len(numbers) or 1), context, _begin, (work,))
    try:
        while waiting or running:
            while waiting and len(running) < AHEAD * jobs:
                running.add(pool.submit(_do, unit(waiting.popleft()), out))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise DataError(
            "a process at work died, as if it had been killed; the memory may have been short. The same command goes on"
            " where it stopped; with fewer `--jobs` it needs less memory."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(work: Work) -> None:
    """Readies a process of the pool: it ends with the one that started it, even if that is killed."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    _work[:] = [work]
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _do(unit: Unit, out: Path) -> int:
    return do(_work[0], unit, out)


def _on_ray(
    jobs: int | None, work: Work, numbers: Sequence[int], unit: Callable[[int], Unit], out: Path
) -> Iterator[int]:
    """Ray Data reads unit numbers, hands rows to processes of the cluster, and gives numbers back as they are done."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("`--engine ray` must have Ray: pip install 'anemone[ray]'.") from error
    ours = not ray.is_initialized()
    if ours:
        cores = None if os.environ.get("RAY_ADDRESS") else jobs
        ray.init(num_cpus=cores, log_to_driver=False, logging_level="ERROR")
        logging.getLogger("ray.data").setLevel("ERROR")
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"number": number, "rows": json.dumps(unit(number).rows)} for number in numbers]
        data = ray.data.from_items(items, override_num_blocks=max(1, len(items)))
        held, folder = ray.put(work), out.absolute()

        def once(item: dict[str, Any]) -> dict[str, Any]:
            return {"number": do(ray.get(held), Unit(item["number"], json.loads(item["rows"])), folder)}

        for row in data.map(once, num_cpus=1).iter_rows():
            yield int(row["number"])
    finally:
        if ours:
            ray.shutdown()
