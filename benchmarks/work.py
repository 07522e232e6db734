"""What both sides are timed on, and the loop that times it; imports torch alone."""

import json
import sys
import time
from collections.abc import Callable

import torch

SECONDS = (8.0, 7.2, 6.4, 5.6)
TARGETS = (40, 36, 32, 28)
VOCABULARY = 64


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise at 16 kHz (4, 128000), its lengths, targets out of 64 units (4, 40), their lengths."""
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(4, 128_000, generator=generator) * 0.1
    targets = torch.randint(0, VOCABULARY, (4, 40), generator=generator)
    return audio, torch.tensor([int(16_000 * s) for s in SECONDS]), targets, torch.tensor(TARGETS)


def descent(network: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], int]:
    """Steps of AdamW down a loss; their size is the number of the network's parameters."""
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def work() -> int:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        return sum(p.numel() for p in parameters)

    return work


def serve(items: dict[str, Callable[[], Callable[[], int]]]) -> None:
    """Reads item names from standard input; times one call of each and answers with a line of JSON.

    Args:
        items: name -> function that prepares the work once and returns it; the work returns its size (parameters or
            elements), by which the two sides are compared.
    """
    ready: dict[str, Callable[[], int]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in ready:
            ready[name] = items[name]()
        start = time.perf_counter()
        size = ready[name]()
        print(json.dumps({"seconds": time.perf_counter() - start, "size": size}), flush=True)
