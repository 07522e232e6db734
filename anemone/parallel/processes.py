"""Processes of one machine that form a gloo group: the same function in each, its results by rank."""

import importlib.util
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
import torch.distributed as dist

PRELOADED = ("anemone.parallel.apply", "anemone.training.layout", "anemone.training.engine", "anemone.training.module")
"""What the process they are forked from imports once, before the first of them, where their parent has done so."""


def run_ranks(n: int, fn: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
    """Calls ``fn(rank, *args)`` in ``n`` processes that form one gloo group, and returns the results by rank.

    The processes are forked from one that has imported anemone and `DTensor` once, so that a call takes a fifth of a
    second.

    Args:
        n: number of processes.
        fn: a function of a module's top level, so that another process can find it.
        *args: passed to every process.
        timeout: seconds after which a collective call, or the whole, counts as stuck.

    Raises:
        Exception: the first exception of any rank, with the rank and its traceback as a note.
        TimeoutError: not all ranks were done in time.
    """
    if "<" in fn.__qualname__:
        raise ValueError(f"`fn` must be a function of a module's top level, but is {fn.__qualname__!r} instead.")
    home = fn.__module__, sys.modules[fn.__module__].__file__ or "", fn.__qualname__
    context = multiprocessing.get_context("forkserver")
    used = [name for name in PRELOADED if name in sys.modules]
    context.set_forkserver_preload(["anemone.testing", "torch.distributed.tensor", *used])
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        pipes = []
        for rank in range(n):
            ours, theirs = context.Pipe()
            group = rank, n, f"file://{folder}/meeting", timeout
            process = context.Process(target=_work, args=(theirs, home, group, args, dict(os.environ)), daemon=True)
            process.start()
            theirs.close()
            stack.callback(_end, process, ours)
            pipes.append(ours)
        results = _collect(pipes, timeout)
        for pipe in pipes:
            pipe.send("taken")  # a rank stays until then: tensors are shared, not copied
        return results


def _collect(pipes: list[Connection], timeout: float) -> list[Any]:
    """Waits for all ranks; the first failure goes before results."""
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        waiting = {rank: pipe for rank, pipe in enumerate(pipes) if rank not in results}
        ready = wait(waiting.values(), timeout)
        if not ready:
            raise TimeoutError(f"ranks {sorted(waiting)} were not done in {timeout:g} s.")
        for rank in [rank for rank, pipe in waiting.items() if pipe in ready]:
            try:
                value, error, trace = waiting[rank].recv()
            except EOFError:
                raise RuntimeError(f"rank {rank} ended without a word, as if it had been killed.") from None
            if error is not None:
                error.add_note(f"raised in rank {rank} of {len(pipes)}:\n{trace}")
                raise error
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _end(process: BaseProcess, pipe: Connection) -> None:
    """Waits a moment for a process that was told to end, and no longer."""
    process.join(0 if sys.exc_info()[0] else 10)
    process.kill()
    process.join()
    pipe.close()


Home = tuple[str, str, str]  # module, its file, name of the function
Group = tuple[int, int, str, float]  # rank, ranks, where they meet, timeout


def _work(pipe: Connection, home: Home, group: Group, args: Any, environment: dict[str, str]) -> None:
    """What a process does: joins the group, calls the function, sends its result or exception."""
    os.environ.update(environment)  # the process was forked from one that may have been started long before
    rank, world, meeting, timeout = group
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
        )
        pipe.send((_find(*home)(rank, *args), None, ""))
    except Exception as raised:
        pipe.send((None, _sendable(raised), traceback.format_exc()))
    pipe.recv()
    if dist.is_initialized():
        dist.destroy_process_group()


def _sendable(error: Exception) -> Exception:
    """The exception itself, or its words where another process could not read it."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _find(module: str, file: str, name: str) -> Callable[..., Any]:
    """The function of that name, whether or not its file is on the path of imports."""
    if module not in sys.modules:
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec and spec.loader
        sys.modules[module] = loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    function: Callable[..., Any] = found
    return function
