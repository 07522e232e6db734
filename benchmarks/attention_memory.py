"""Memory and time of attention against the length of the text: `python benchmarks/attention_memory.py`.

One forward and backward, batch 1, 4 heads of 64, float32, one thread, each in a process of its own. Memory is how far
the resident set rises above what the queries, keys, values and their gradients take.
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from anemone.nn.attention import attention

LENS = (1024, 2048, 4096, 8192)
HEADS, D_HEAD = 4, 64
MOST_PLAIN = 4096  # tokens: beyond, the plain formula wants gigabytes


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula, with all scores at once."""
    scores = torch.einsum("bnhk,bmhk->bhnm", query, key) / math.sqrt(D_HEAD)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.einsum("bhnm,bmhk->bnhk", scores.masked_fill(future, -torch.inf).softmax(-1), value)


def documents(n: int) -> Tensor:
    """Documents of 512 tokens."""
    return (torch.arange(n) // 512)[None]


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain formula": plain,
    "sdpa": attention,
    "sdpa, window 512": lambda q, k, v: attention(q, k, v, window=512, kernel="sdpa"),
    "packed, window 512": lambda q, k, v: attention(q, k, v, window=512),
    "sdpa, documents of 512": lambda q, k, v: attention(q, k, v, segments=documents(q.shape[1]), kernel="sdpa"),
    "packed, documents of 512": lambda q, k, v: attention(q, k, v, segments=documents(q.shape[1])),
}


def resident(field: str) -> float:
    """MiB that the process holds (VmRSS), or held at most (VmHWM)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def measure(way: str, n: int) -> tuple[float, float]:
    """MiB and seconds of one forward and backward."""
    torch.set_num_threads(1)
    run = WAYS[way]
    for length in (64, n):  # the first loads what is loaded once
        inputs = [torch.randn(1, length, HEADS, D_HEAD, requires_grad=True) for _ in range(3)]
        for x in inputs:
            x.grad = torch.zeros_like(x)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # forget the peak so far
        before, start = resident("VmRSS"), time.process_time()
        run(*inputs).sum().backward()
        used = resident("VmHWM") - before, time.process_time() - start
    return used


def main() -> None:
    """Prints the table, in Markdown."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
        return
    print("| kernel | " + " | ".join(f"{n:,} tokens" for n in LENS) + " |")
    print("|---|" + "--:|" * len(LENS))
    for way in WAYS:
        cells = []
        for n in LENS:
            if way == "plain formula" and n > MOST_PLAIN:
                cells.append("-")
                continue
            done = subprocess.run([sys.executable, __file__, way, str(n)], capture_output=True, text=True, check=True)
            memory, seconds = json.loads(done.stdout)
            cells.append(f"{memory:.0f} MiB, {seconds:.2f} s")
        print(f"| {way} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
