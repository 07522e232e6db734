"""Bytes that one process holds of weights, gradients and optimizer states, counted exactly, without a network.

The rules are those of the code that does it: tensor parallel cuts one axis of a matrix into equal parts; FSDP2 cuts the
first axis of what is left by ``torch.chunk``, so that with uneven sizes the first processes hold the most, and pads
every shard to the size of the first; experts are cut over ``ep`` first. Numbers are float32, as masters are.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, NamedTuple

from anemone.config import encode
from anemone.parallel.pipeline import share_layers, stage_numbers

FLOAT = 4  # bytes of a master weight, of its gradient and of a state


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The numbers of a decoder-only Transformer that memory and time depend on; see `LlamaConfig` for each."""

    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    d_head: int
    d_ff: int
    vocab_size: int
    num_experts: int = 0
    num_experts_per_token: int = 1
    tie_embeddings: bool = False
    window: int | None = None

    @classmethod
    def of(cls, shape: Any, vocab_size: int) -> "Decoder":
        """The numbers of a `LlamaShape`.

        Args:
            shape: has fields of the same names.
            vocab_size: number of tokens.
        """
        names = [field.name for field in fields(cls) if field.name != "vocab_size"]
        return cls(**{name: getattr(shape, name) for name in names}, vocab_size=vocab_size)

    @property
    def width(self) -> dict[str, int]:
        """Sizes of axes: D states, Q queries, KV keys or values, F inside the feed-forward, V tokens, E experts."""
        queries, keys = self.num_heads * self.d_head, self.num_kv_heads * self.d_head
        sizes = {"D": self.d_model, "Q": queries, "KV": keys, "F": self.d_ff, "V": self.vocab_size}
        return sizes | {"E": self.num_experts}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Degrees and choices of `ParallelConfig`, all filled in, with what else a plan depends on."""

    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1
    zero: int = 3
    sequence_parallel: bool = True
    loss_parallel: bool = True
    cp_method: str = "ring"
    schedule: str = "1f1b"
    stages_per_rank: int = 1
    recompute: str = "none"
    """none, selective or full; alternate is torchtitan's selective: every second product is recomputed."""
    recomputed: float = 1.0
    """Share of the blocks that are, unless none is; ask `repeated`."""
    compile: bool = False
    async_tp: bool = False
    prefetch: int = 1
    precision: str = "bf16-true"
    kernels: str = "torch"
    """Whose attention and casts: torch, or te (Transformer Engine)."""
    summed: int = 4
    """Bytes of a number while gradients are summed."""

    @property
    def sharded(self) -> int:
        """Processes that weights are sharded over."""
        return self.dp_shard * self.cp

    @property
    def data(self) -> int:
        """Processes that read different data."""
        return self.dp_replicate * self.dp_shard

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.data * self.cp * self.tp * self.pp

    @property
    def repeated(self) -> float:
        """Share of the blocks whose forward is repeated, in part or whole."""
        return self.recomputed if self.recompute != "none" else 0.0

    @property
    def stages(self) -> int:
        """Stages of the pipeline."""
        return self.pp * self.stages_per_rank

    @property
    def pipeline(self) -> "Layout":
        """What of it says which blocks a rank has."""
        return Layout(pp=self.pp, schedule=self.schedule, stages_per_rank=self.stages_per_rank)

    @classmethod
    def of(cls, config: Any, *, precision: str, recomputed: float = 1.0) -> "Layout":
        """The layout of a `ParallelConfig` that is resolved.

        Args:
            config: has fields of the same names.
            precision: of the run.
            recomputed: share of the blocks that are recomputed, if any are.
        """
        same = [f.name for f in fields(cls) if f.name != "recompute" and f.name in config.__dataclass_fields__]
        values = {name: getattr(config, name) for name in same}
        return cls(**values, recompute=recompute_kind(config), precision=precision, recomputed=recomputed)


def recompute_kind(config: Any) -> str:
    """The kind of recomputation that a `ParallelConfig` asks for."""
    chosen = encode(config)["recompute"]
    return str(chosen["kind"]) if chosen else "none"


# --- weights ----------------------------------------------------------------------------------------------------------


class Weight(NamedTuple):
    """A parameter of the whole network."""

    name: str
    shape: tuple[int, ...]
    cut: int | None = None
    """The axis that tensor parallel divides."""
    expert: bool = False
    """Whether its first axis is experts, which ``ep`` divides."""

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


ATTENTION = (
    ("attention_norm.weight", "D", None),
    ("attention.query.weight", "Q D", 0),
    ("attention.key.weight", "KV D", 0),
    ("attention.value.weight", "KV D", 0),
    ("attention.output.weight", "D Q", 1),
    ("ffn_norm.weight", "D", None),
)
DENSE = (("ffn.gate.weight", "F D", 0), ("ffn.up.weight", "F D", 0), ("ffn.down.weight", "D F", 1))
EXPERTS = (
    ("ffn.router.weight", "E D", None),
    ("ffn.experts.gate", "E F D", 1),
    ("ffn.experts.up", "E F D", 1),
    ("ffn.experts.down", "E D F", 2),
)


def block_weights(decoder: Decoder, layer: int | str) -> list[Weight]:
    """Returns the parameters of one block."""
    rows = ATTENTION + (EXPERTS if decoder.num_experts else DENSE)
    return [_weight(decoder, f"layers.{layer}.{name}", axes, cut) for name, axes, cut in rows]


def weights(decoder: Decoder, layers: Iterable[int], *, first: bool = True, last: bool = True) -> Iterator[Weight]:
    """Yields the parameters of a stage, by the names they have in the whole network.

    Args:
        decoder: the network.
        layers: numbers of its blocks.
        first: whether it has the embedding.
        last: whether it has the last norm and the head.
    """
    if first:
        yield _weight(decoder, "embedding.weight", "V D", 0)
    for layer in layers:
        yield from block_weights(decoder, layer)
    if last:
        yield _weight(decoder, "norm.weight", "D", None)
        if not (first and decoder.tie_embeddings):
            yield _weight(decoder, "head.weight", "V D", 0)


def _weight(decoder: Decoder, name: str, axes: str, cut: int | None) -> Weight:
    return Weight(name, tuple(decoder.width[axis] for axis in axes.split()), cut, ".experts." in name)


def count(decoder: Decoder) -> int:
    """How many numbers the whole network has."""
    return sum(weight.numel for weight in weights(decoder, range(decoder.num_layers)))


# --- shards -----------------------------------------------------------------------------------------------------------


def chunk(size: int, parts: int, index: int) -> int:
    """Size of one of ``parts`` pieces as ``torch.chunk`` cuts them: rounded up, until nothing is left."""
    whole = math.ceil(size / parts)
    return max(0, min(whole, size - whole * index))


def local(weight: Weight, layout: Layout) -> Weight:
    """The part of a parameter that stands in one process while it is used: after tensor and expert parallel.

    Args:
        weight: whole.
        layout: degrees.
    """
    shape = list(weight.shape)
    if weight.cut is not None:
        shape[weight.cut] = chunk(shape[weight.cut], layout.tp, 0)
    if weight.expert:
        shape[0] = chunk(shape[0], layout.ep, 0)
    return weight._replace(shape=tuple(shape))


class Held(NamedTuple):
    """Numbers of a parameter that one process keeps between steps."""

    numel: int
    """Those that are its own."""
    padded: int
    """Those that memory is there for."""


def held(weight: Weight, layout: Layout, rank: int = 0) -> Held:
    """Counts what one process keeps of a parameter.

    Args:
        weight: whole.
        layout: degrees.
        rank: of the process among those that weights are sharded over; of those with the same experts, for experts.
    """
    part = local(weight, layout)
    parts = layout.sharded // (layout.ep if weight.expert else 1)
    row = math.prod(part.shape[1:])
    return Held(chunk(part.shape[0], parts, rank) * row, chunk(part.shape[0], parts, 0) * row)


class States(NamedTuple):
    """Bytes of one process."""

    weights: int
    gradients: int
    optimizer: int


def states(stage: Mapping[Weight, int], layout: Layout, *, optimizer: str = "adamw", rank: int = 0) -> States:
    """Returns the bytes of float32 weights, of their gradients and of the optimizer's states in one process.

    Gradients are those that are kept from one micro-batch to the next: whole under zero 1, shards otherwise.

    Args:
        stage: parameters of this process's stages, whole, and how many there are of each, as `rank_alike` counts them.
        layout: degrees.
        optimizer: a name out of `OPTIMIZERS`.
        rank: of the process among those that weights are sharded over.
    """
    numbers, scalar = OPTIMIZERS[optimizer]
    total = [0, 0, 0]
    for weight, times in stage.items():
        own = held(weight, layout, rank)
        total[0] += own.padded * FLOAT * times
        total[1] += (local(weight, layout).numel if layout.zero == 1 else own.padded) * FLOAT * times
        total[2] += (numbers * own.numel + scalar) * FLOAT * times
    return States(*total)


OPTIMIZERS = {"adamw": (2, 1), "lion": (1, 0), "novograd": (1, 1), "sgd": (0, 0), "sgd with momentum": (1, 0)}
"""Numbers of an optimizer's states for each weight, and for each tensor."""


def blocks_of(num_layers: int, layout: Layout, rank: int) -> dict[int, range]:
    """Returns the stages of a rank of the pipeline, and which blocks each has.

    Args:
        num_layers: blocks of the network.
        layout: degrees and schedule.
        rank: along ``pp``.
    """
    if layout.pp == 1:
        return {0: range(num_layers)}
    return _blocks_of(num_layers, layout.pipeline, rank)


@cache
def _blocks_of(num_layers: int, layout: Layout, rank: int) -> dict[int, range]:
    counts = share_layers(num_layers, layout.stages)
    numbers = stage_numbers(layout.schedule, rank, layout.pp, stages_per_rank=layout.stages_per_rank)
    return {number: range(sum(counts[:number]), sum(counts[: number + 1])) for number in numbers}


def rank_weights(decoder: Decoder, layout: Layout, rank: int) -> list[Weight]:
    """Returns the parameters of all stages of a rank of the pipeline, whole."""
    last = layout.stages - 1
    held_here = blocks_of(decoder.num_layers, layout, rank)
    return [w for n, layers in held_here.items() for w in weights(decoder, layers, first=n == 0, last=n == last)]


@cache
def rank_alike(decoder: Decoder, layout: Layout, rank: int) -> Counter[Weight]:
    """Counts those of `rank_weights` that differ in nothing but their names.

    Of the layout only the pipeline counts: ask with `Layout.pipeline`, so that others find the answer kept.
    """
    return Counter(weight._replace(name="") for weight in rank_weights(decoder, layout, rank))
