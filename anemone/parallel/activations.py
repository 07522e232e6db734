"""Bytes of activations that a decoder keeps for its backward pass, as a sum over what each operation saves.

The sums follow `models/text/llama.py` operation by operation and are checked against the tensors that autograd saves
(`tests/parallel/test_activations.py`). Letters: t tokens of a micro-batch in one process, s of them between the
matrices under sequence parallel, D width, Q and KV widths of queries and of keys, F inside the feed-forward part.
"""

from typing import NamedTuple

from anemone.parallel.memory import Decoder, Layout

BYTES = {"32": 4, "tf32": 4, "bf16-true": 2, "bf16-mixed": 2, "16-mixed": 2, "fp8": 2, "fp8-rowwise": 2}
"""Bytes of an activation by precision."""


class Tokens(NamedTuple):
    """Tokens of one micro-batch in one process."""

    t: int
    """Inside matrices and attention."""
    s: int
    """Between them."""


def tokens(layout: Layout, sequence_len: int, micro_batch: int) -> Tokens:
    """Returns how many tokens of a micro-batch one process has.

    Args:
        layout: degrees.
        sequence_len: tokens of a sequence.
        micro_batch: sequences.
    """
    t = micro_batch * (sequence_len // layout.cp)
    return Tokens(t, t // layout.tp if layout.sequence_parallel else t)


class Saved(NamedTuple):
    """Bytes of one block and one micro-batch."""

    kept: int
    """From its forward until its backward."""
    again: int
    """More while its backward runs, because it is recomputed."""


def block(decoder: Decoder, layout: Layout, n: Tokens, mode: str) -> Saved:
    """Returns what one block keeps under a mode of recomputation.

    Args:
        decoder: numbers of the network.
        layout: degrees and precision.
        n: tokens of a micro-batch.
        mode: none, selective (results of products and attention are kept) or full (its input is).
    """
    everything = sum(_plain(decoder, layout, n).values())
    if mode == "none":
        return Saved(everything, 0)
    share = {"selective": 1.0, "alternate": 0.5, "full": 0.0}[mode]
    kept = _input(decoder, layout, n) + round(share * sum(_results(decoder, layout, n).values()))
    return Saved(kept, max(0, everything - kept + _input(decoder, layout, n)))


def _input(decoder: Decoder, layout: Layout, n: Tokens) -> int:
    return n.s * decoder.d_model * BYTES[layout.precision]


def _widths(decoder: Decoder, layout: Layout) -> tuple[int, int, int, int]:
    """D, and Q, KV and heads of one process."""
    width = decoder.width
    return width["D"], width["Q"] // layout.tp, width["KV"] // layout.tp, decoder.num_heads // layout.tp


def _plain(decoder: Decoder, layout: Layout, n: Tokens) -> dict[str, int]:
    """What autograd keeps of a block that is not recomputed."""
    d, q, kv, heads = _widths(decoder, layout)
    size = BYTES[layout.precision]
    return {
        "inputs of the norms": 2 * n.s * d * size,
        "root mean squares": 2 * n.s * 4,
        "rotations": 0 if size == 4 else 2 * n.t * decoder.d_head * size,
        "input of query, key, value": n.t * d * size,
        "query, key, value": n.t * (q + 2 * kv) * size,
        "attention": n.t * q * size + n.t * heads * 4,
    } | _ffn(decoder, layout, n)


def _ffn(decoder: Decoder, layout: Layout, n: Tokens) -> dict[str, int]:
    d, size = decoder.d_model, BYTES[layout.precision]
    if not decoder.num_experts:
        return {
            "input of gate, up": n.t * d * size,
            "gate, silu, up, product": 4 * n.t * (decoder.d_ff // layout.tp) * size,
        }
    rows = n.t * decoder.num_experts_per_token
    return {
        "routing": n.t * d * 4 + 2 * n.t * decoder.num_experts * 4 + 4 * rows * 8,
        "rows of the experts": 2 * rows * d * size,
        "gate, silu, up, product": 4 * rows * (decoder.d_ff // layout.tp) * size,
    }


def _results(decoder: Decoder, layout: Layout, n: Tokens) -> dict[str, int]:
    """Results of products and of attention."""
    d, q, kv, heads = _widths(decoder, layout)
    size = BYTES[layout.precision]
    experts = decoder.num_experts_per_token if decoder.num_experts else 1
    inside = decoder.d_ff // layout.tp
    return {
        "query, key, value": n.t * (q + 2 * kv) * size,
        "attention": n.t * q * size + n.t * heads * 4,
        "output": n.t * d * size,
        "gate, up": 2 * n.t * experts * inside * size,
        "down": n.t * experts * d * size,
        "router": n.t * decoder.num_experts * 4,
    }


def ends(decoder: Decoder, layout: Layout, n: Tokens, *, last: bool) -> int:
    """Returns what the last stage keeps: inputs of norm and head, and logits, whose gradient takes their place.

    Args:
        decoder: numbers of the network.
        layout: degrees and precision.
        n: tokens of a micro-batch.
        last: whether the process has the last stage.
    """
    if not last:
        return 0
    size = BYTES[layout.precision]
    vocab = decoder.vocab_size // (layout.tp if layout.loss_parallel else 1)
    return (n.s + n.t) * decoder.d_model * size + n.s * 4 + n.t * vocab * size


def in_flight(schedule: str, pp: int, rank: int, *, chunks: int = 1, micro_batches: int) -> float:
    """Returns the most micro-batches that a rank of a pipeline keeps activations of, in units of all its blocks.

    Sources: GPipe arXiv:1811.06965, 1F1B arXiv:2006.09503, interleaved arXiv:2104.04473 (section 2.2), breadth-first
    arXiv:2211.05953, zero bubble arXiv:2401.10241 (section 2), ZB-V arXiv:2405.15362, DualPipe-V after DeepSeek-V3,
    arXiv:2412.19437.

    Args:
        schedule: a name of `ParallelConfig.schedule`.
        pp: ranks of the pipeline.
        rank: which of them.
        chunks: stages of a rank.
        micro_batches: of one step.
    """
    if pp == 1:
        return 1.0
    most = micro_batches * chunks
    counts = {
        "gpipe": most,
        "looped_bfs": most,
        "1f1b": pp - rank,
        "interleaved_1f1b": 2 * (pp - rank - 1) + (chunks - 1) * pp + 1,
        "interleaved_zero_bubble": 2 * (pp - rank - 1) + (chunks - 1) * pp + 1,
        "zbv": 2 * pp,
        "dualpipev": 2 * pp + 1,
    }
    return min(most, counts[schedule]) / chunks
