"""What all sides train: the size of the model, the tokens, and a feed that times each step; imports torch alone.

Every side runs its own training loop over `feed`. A step is what lies between the loop's getting a batch and its asking
for the next one: forward, backward, clipping, optimizer, schedule, logging.
"""

import json
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch

SEQUENCE, BATCH = 512, 4
LR, WEIGHT_DECAY, CLIP = 3e-4, 0.1, 1.0


class Size(NamedTuple):
    """A Llama."""

    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    d_ff: int
    vocab_size: int


SIZES = {
    "20m": Size(384, 8, 6, 2, 1024, 8192),
    "100m": Size(768, 12, 12, 4, 2048, 16_384),
}


def arguments() -> tuple[Size, bool]:
    """The size, and whether products run in bfloat16 under autocast: ``SCRIPT 20m bf16``."""
    torch.set_num_threads(2)
    return SIZES[sys.argv[1]], sys.argv[2] == "bf16"


def tokens(size: Size, number: int) -> torch.Tensor:
    """Random tokens of one batch (BATCH, SEQUENCE + 1)."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, size.vocab_size, (BATCH, SEQUENCE + 1), generator=generator)


def feed(size: Size) -> Iterator[torch.Tensor]:
    """Yields a batch for each line on standard input, and answers it with the seconds until the next is asked for."""
    for number, _ in enumerate(sys.stdin):
        batch = tokens(size, number)
        start = time.perf_counter()
        yield batch
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def ready(parameters: int) -> None:
    """Says that the model is built, and how large it is."""
    print(json.dumps({"parameters": parameters}), flush=True)
