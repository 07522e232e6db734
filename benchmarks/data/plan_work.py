"""What both sides of `plan.py` plan, and the loop that times them; imports NumPy alone."""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

BUDGET, BUCKETS, QUADRATIC = 300.0, 30, 20.0
Sizes = tuple[int, float]  # utterances and longest seconds of a micro-batch


def durations(number: int) -> npt.NDArray[np.float32]:
    """Seconds like those of speech: log-normal, 6.7 s in the middle, 0.5 to 30 s."""
    return np.clip(np.random.default_rng(0).lognormal(1.9, 0.6, number), 0.5, 30).astype(np.float32)


def resident() -> float:
    """MB of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def serve(epochs: Callable[[str, npt.NDArray[np.float32]], Callable[[int], Iterable[Sizes]]]) -> None:
    """Reads "item epoch" from standard input, goes through that epoch, and answers with a line of JSON.

    Args:
        epochs: item, durations -> what makes the micro-batches of an epoch.
    """
    seconds = durations(int(sys.argv[1]))
    start, ready = resident(), {}
    for line in sys.stdin:
        item, epoch = line.split()
        began, cpu = time.perf_counter(), time.process_time()
        if item not in ready:
            ready[item] = epochs(item, seconds)
        sizes = np.array(list(ready[item](int(epoch))))
        padded = sizes.prod(1)
        answer = {
            "seconds": time.perf_counter() - began,
            "cpu": time.process_time() - cpu,
            "batches": len(sizes),
            "utterances": int(sizes[:, 0].sum()),
            "padding": 1 - float(seconds.sum(dtype=np.float64)) / float(padded.sum()),
            "beyond": float((padded > BUDGET * (1 + 1e-6)).mean()),
            "start": start,
            "resident": resident(),
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        }
        print(json.dumps(answer), flush=True)
