"""Bytes of activations that a decoder keeps for its backward pass, as a sum over what each operation saves.

The sums follow `models/text/llama.py` operation by operation and are checked against the tensors that autograd saves
(`tests/parallel/test_activations.py`). Letters: t tokens of a micro-batch in one process, s of them between the
matrices under sequence parallel, D width, Q and KV widths of queries and of keys, F inside the feed-forward part.
"""

from typing import NamedTuple

from anemone.parallel.memory import Decoder, Layout, block_weights, local

BYTES = {"32": 4, "tf32": 4, "bf16-true": 2, "bf16-mixed": 2, "16-mixed": 2, "fp8": 2, "fp8-rowwise": 2}
"""Bytes of an activation by precision."""

STATES = BYTES | {"bf16-mixed": 4, "16-mixed": 4}
"""Bytes of a state between blocks: autocast leaves sums in float32."""


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


def block(decoder: Decoder, layout: Layout, n: Tokens, *, mode: str) -> Saved:
    """Returns what one block keeps under a mode of recomputation.

    Args:
        decoder: numbers of the network.
        layout: degrees and precision.
        n: tokens of a micro-batch.
        mode: none, selective (results of products and attention are kept), alternate (half of them are) or full (its
            input is).
    """
    everything = sum(_plain(decoder, layout, n).values())
    if mode == "none":
        return Saved(everything, 0)
    share = {"selective": 1.0, "alternate": 0.5, "full": 0.0}[mode]
    kept = _input(decoder, layout, n) + round(share * sum(_results(decoder, layout, n).values()))
    return Saved(kept, max(0, everything - kept + _input(decoder, layout, n)))


def _input(decoder: Decoder, layout: Layout, n: Tokens) -> int:
    return n.s * decoder.d_model * STATES[layout.precision]


def _widths(decoder: Decoder, layout: Layout) -> tuple[int, int, int, int]:
    """D, and Q, KV and heads of one process."""
    width = decoder.width
    return width["D"], width["Q"] // layout.tp, width["KV"] // layout.tp, decoder.num_heads // layout.tp


def _plain(decoder: Decoder, layout: Layout, n: Tokens) -> dict[str, int]:
    """What autograd keeps of a block that is not recomputed."""
    d, q, kv, heads = _widths(decoder, layout)
    size = BYTES[layout.precision]
    return {
        "inputs of the norms": 2 * n.s * d * STATES[layout.precision],
        "root mean squares": 2 * n.s * 4,
        "rotations": 0 if size == 4 else 2 * n.t * decoder.d_head * size,
        "input of query, key, value": n.t * d * size,
        "query, key, value": n.t * (q + 2 * kv) * size,
        "attention": n.t * q * size + n.t * heads * 4,
        "weights in 16 bits": _copies(decoder, layout),
    } | _ffn(decoder, layout, n)


def _copies(decoder: Decoder, layout: Layout) -> int:
    """Autocast makes copies of the matrices, and keeps them until the backward."""
    if layout.precision not in ("bf16-mixed", "16-mixed"):
        return 0
    matrices = [w for w in block_weights(decoder, "*") if len(w.shape) > 1 and "router" not in w.name]
    return sum(local(weight, layout).numel for weight in matrices) * 2


def _ffn(decoder: Decoder, layout: Layout, n: Tokens) -> dict[str, int]:
    d, size = decoder.d_model, BYTES[layout.precision]
    if not decoder.num_experts:
        return {
            "input of gate, up": n.t * d * size,
            "gate, silu, up, product": 4 * n.t * (decoder.d_ff // layout.tp) * size,
        }
    chosen, experts = decoder.num_experts_per_token, decoder.num_experts
    rows = n.t * chosen
    return {
        "input of the router": n.t * d * 4 + (experts * d * 4 if STATES[layout.precision] < 4 else 0),
        "routing": n.t * (experts + 1) * 4 + rows * (8 + 4 + size) + 2 * rows * 8 + experts * 4,
        "rows of the experts": 2 * rows * d * size,
        "gate, silu, up, product": 4 * rows * (decoder.d_ff // layout.tp) * size,
    }


def _results(decoder: Decoder, layout: Layout, n: Tokens) -> dict[str, int]:
    """Results of products and of attention."""
    d, q, kv, heads = _widths(decoder, layout)
    size = BYTES[layout.precision]
    experts = decoder.num_experts_per_token if decoder.num_experts else 1
    mixed = {"router": n.t * decoder.num_experts * 4, "sum over experts": n.t * d * size} if decoder.num_experts else {}
    return mixed | {
        "query, key, value": n.t * (q + 2 * kv) * size,
        "attention": n.t * q * size + n.t * heads * 4,
        "output": n.t * d * size,
        "gate, up": 2 * n.t * experts * (decoder.d_ff // layout.tp) * size,
        "down": n.t * experts * d * size,
    }


def ends(decoder: Decoder, layout: Layout, n: Tokens, *, first: bool, last: bool) -> int:
    """Returns what a stage keeps of a micro-batch beside its blocks.

    That are angles of rotations; the first stage's tokens; the last stage's inputs of norm and head, logits, whose
    gradient takes their place, and what the loss looks up.

    Args:
        decoder: numbers of the network.
        layout: degrees and precision.
        n: tokens of a micro-batch.
        first: whether the process has the first stage.
        last: whether the process has the last stage.
    """
    size, states = BYTES[layout.precision], STATES[layout.precision]
    kept = n.t * decoder.d_head * 4 + (n.t * 8 if first else 0)
    if not last:
        return kept
    vocab = decoder.vocab_size // (layout.tp if layout.loss_parallel else 1)
    return kept + n.s * (decoder.d_model * states + 4) + n.t * (decoder.d_model * size + vocab * size + 14)


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
        "interleaved_zero_bubble": chunks * pp - rank,
        "zbv": 2 * pp,
        "dualpipev": 2 * pp + 1,
    }
    return min(most, counts[schedule]) / chunks
