"""Seconds that one process computes in a block of a decoder: products, attention, and trips to memory between them.

Everything here is a formula over numbers; docs/planner.md explains each with its source.
"""

import math
from typing import NamedTuple

from anemone.parallel.activations import BYTES, Tokens
from anemone.parallel.hardware import GPU
from anemone.parallel.memory import Decoder, Layout, block_weights

MEMORY_SHARE = 0.8
"""What kernels that only move numbers get of the memory's bandwidth."""

CONTENTION = 0.15
"""Share of a hidden transfer that it costs the products it hides behind, as both use the same units and memory."""

ASYNC_TP = 0.4
"""What is left of a tensor-parallel transfer that is overlapped piece by piece with its product."""

LAUNCH = 6e-6
"""Seconds until the next kernel starts, without graphs."""

TRIPS = {True: (8.0, 2.0, 3.0), False: (26.0, 13.0, 8.7)}
"""Passes over memory of what lies between the products in a forward, compiled or not: over states of width D, over
queries and keys, over the width F."""

MERGE = 13.0
"""Passes over memory in which outputs of attention over different keys are merged, in float32."""

KERNELS = {True: 16, False: 40}
"""Kernels of a block's forward, compiled or not."""

CAST = {"torch": 4.3, "te": 2.15}
"""Bytes that turning a number of a product into fp8 moves, beyond what the product moves; Transformer Engine leaves
half of it to the kernels before."""


# --- operations -------------------------------------------------------------------------------------------------------


class Product(NamedTuple):
    """A matrix product (m, k) (k, n), so many times."""

    m: float
    n: int
    k: int
    times: int = 1
    inputs: int = 1
    """How many (m, k) there are among them."""

    @property
    def operations(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.m * self.n * self.k * self.times


def block_products(decoder: Decoder, layout: Layout, n: Tokens) -> list[Product]:
    """Returns the products of one block's forward in one process."""
    width = {axis: size // layout.tp for axis, size in decoder.width.items()}
    d = decoder.d_model
    attention = [Product(n.t, width["Q"], d), Product(n.t, width["KV"], d, 2), Product(n.t, d, width["Q"])]
    if not decoder.num_experts:
        return [*attention, Product(n.t, width["F"], d, 2), Product(n.t, d, width["F"])]
    here = math.ceil(decoder.num_experts / layout.ep)
    rows = n.t * decoder.num_experts_per_token * layout.ep / decoder.num_experts  # of one expert, evenly spread
    router = Product(n.t, decoder.num_experts, d)
    return [*attention, router, Product(rows, width["F"], d, 2 * here, here), Product(rows, d, width["F"], here, here)]


def attention_operations(decoder: Decoder, layout: Layout, n: Tokens, *, sequence_len: int) -> float:
    """Returns the operations of one block's causal attention, forward: a token sees half of all tokens on average."""
    seen = sequence_len / 2 if decoder.window is None else min(decoder.window, sequence_len / 2)
    return 4.0 * n.t * seen * (decoder.num_heads * decoder.d_head / layout.tp)


def model_operations(decoder: Decoder, sequence_len: int) -> float:
    """Returns the operations a token costs in forward and backward, by which model FLOPs utilisation is counted.

    ``6 N + 12 L H K S`` (PaLM, arXiv:2204.02311, appendix B): N weights that take part but for the embedding, attention
    counted as if it were not causal, nothing counted twice for recomputation.
    """
    experts = decoder.num_experts_per_token / decoder.num_experts if decoder.num_experts else 1.0
    block = sum(weight.numel * (experts if weight.expert else 1.0) for weight in block_weights(decoder, "*"))
    active = block * decoder.num_layers + decoder.vocab_size * decoder.d_model
    return 6 * active + 12.0 * decoder.num_layers * decoder.num_heads * decoder.d_head * sequence_len


class Pass(NamedTuple):
    """Seconds of one block, or of the head, for one micro-batch."""

    forward: float
    backward: float

    def times(self, number: int, head: "Pass | None") -> "Pass":
        """The seconds of so many blocks, and of a head if there is one."""
        more = head or Pass(0.0, 0.0)
        return Pass(number * self.forward + more.forward, number * self.backward + more.backward)


def products_time(products: list[Product], layout: Layout, gpu: GPU, *, number: str) -> float:
    """Seconds of products: their operations at the rate of large ones, and one trip to memory for their numbers."""
    moved = sum((p.m * p.k + p.k * p.n + p.m * p.n) * p.times for p in products) * BYTES[layout.precision]
    return sum(p.operations for p in products) / gpu.rate(number, layout.kernels) + moved / gpu.bandwidth


def number_of(precision: str) -> str:
    """The type of number that products are computed in."""
    return {"32": "fp32", "tf32": "tf32", "fp8": "fp8", "fp8-rowwise": "fp8"}.get(precision, "bf16")


def block_time(decoder: Decoder, layout: Layout, n: Tokens, *, sequence_len: int, gpu: GPU) -> Pass:
    """Returns the seconds of one block and one micro-batch, without communication and recomputation."""
    products = block_products(decoder, layout, n)
    work = products_time(products, layout, gpu, number=number_of(layout.precision))
    flops = attention_operations(decoder, layout, n, sequence_len=sequence_len)
    attend = [flops * more / rate for more, rate in zip((1, 2.5), gpu.attending(layout.kernels), strict=True)]
    moved = trips(decoder, layout, n) / (gpu.bandwidth * MEMORY_SHARE)
    cast = casting(products, layout) / (gpu.bandwidth * MEMORY_SHARE)
    launched = LAUNCH * KERNELS[layout.compile]
    forward = max(launched, work + attend[0] + moved + cast)
    return Pass(forward, max(2 * launched, 2 * work + attend[1] + 2 * moved + 2 * cast))


def trips(decoder: Decoder, layout: Layout, n: Tokens) -> float:
    """Returns the bytes that a block's forward moves between its products."""
    states, heads, inside = TRIPS[layout.compile]
    width = decoder.width
    rows = n.t * (decoder.num_experts_per_token if decoder.num_experts else 1)
    sorted_rows = 6 * rows * decoder.d_model if decoder.num_experts else 0
    numbers = states * n.s * decoder.d_model + heads * n.t * (width["Q"] + width["KV"]) / layout.tp
    numbers += MERGE * merges(layout) * n.t * width["Q"] / layout.tp
    return (numbers + inside * rows * decoder.d_ff / layout.tp + sorted_rows) * BYTES[layout.precision]


def merges(layout: Layout) -> float:
    """How many times as many as all outputs of attention are merged with those over other keys; in a ring the keys of
    one half of the ranks meet half of the queries."""
    if layout.cp == 1 or layout.cp_method == "ulysses":
        return 0.0
    return 1 + 0.75 * (layout.cp - 1) if layout.cp_method == "ring" else 2.0


def casting(products: list[Product], layout: Layout) -> float:
    """Returns the bytes that a forward moves to turn the numbers of its products into fp8; both factors of each."""
    if number_of(layout.precision) != "fp8":
        return 0.0
    return CAST[layout.kernels] * sum(p.m * p.k * p.inputs + p.k * p.n * p.times for p in products)


def head_time(decoder: Decoder, layout: Layout, n: Tokens, *, gpu: GPU) -> Pass:
    """Returns the seconds of the last norm, the head and the loss; the head is not computed in fp8."""
    vocab = decoder.vocab_size // (layout.tp if layout.loss_parallel else 1)
    size = BYTES[layout.precision]
    number = "bf16" if number_of(layout.precision) == "fp8" else number_of(layout.precision)
    work = products_time([Product(n.t, vocab, decoder.d_model)], layout, gpu, number=number)
    passes = 2 if layout.compile else 4
    moved = n.t * vocab * size * passes / (gpu.bandwidth * MEMORY_SHARE)
    return Pass(work + moved, 2 * work + moved)
