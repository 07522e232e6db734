"""What one process sends and receives in a step, collective by collective, and over which links.

Counts and bytes are those that the code of `anemone.parallel` issues; `tests/parallel/test_simulate.py` compares them.
"""

import math
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from anemone.parallel.activations import BYTES, Tokens
from anemone.parallel.hardware import GPU, LATENCY, LINK_SHARE
from anemone.parallel.memory import FLOAT, Decoder, Layout, Weight, block_weights, blocks_of, local, weights

BUCKET_BYTES = 25 * 2**20
"""Size of a message of gradients that are not sharded; see `anemone.parallel.gradients`."""


# --- links ------------------------------------------------------------------------------------------------------------


class Link(NamedTuple):
    """What a group of processes is connected by."""

    name: str
    """node or network."""

    members: int
    """Processes of the group."""

    nodes: int
    """Machines they stand on."""

    bandwidth: float
    """Bytes a second into each process, in a collective of all."""

    def seconds(self, calls: float, moved: float) -> float:
        """Seconds of collectives: the first byte round the ring, and all bytes through the narrowest link.

        Args:
            calls: how many collectives.
            moved: bytes into one process, over all of them.
        """
        if self.members == 1:
            return 0.0
        first = (self.members // self.nodes - 1) * LATENCY["fast"] + (self.nodes - 1) * LATENCY["slow"]
        return calls * first + moved / self.bandwidth


def link(layout: Layout, axis: str, gpu: GPU) -> Link:
    """Returns what connects the ranks along an axis; ranks are counted with tp innermost, machine by machine.

    Through the network a ring has as many cables as it has members in a machine.
    """
    stride = {
        "tp": 1,
        "cp": layout.tp,
        "fsdp": layout.tp,
        "ep": layout.tp,
        "efsdp": layout.tp * layout.ep,
        "dp_replicate": layout.sharded * layout.tp,
        "pp": layout.sharded * layout.tp * layout.dp_replicate,
    }[axis]
    sizes = {"fsdp": layout.sharded, "efsdp": layout.sharded // layout.ep}
    size: int = sizes[axis] if axis in sizes else getattr(layout, axis)
    here = max(1, min(size, gpu.node // stride))
    nodes = math.ceil(size / here)
    if nodes == 1:
        return Link("node", size, 1, gpu.fast * LINK_SHARE)
    return Link("network", size, nodes, min(gpu.fast, here * gpu.slow) * LINK_SHARE)


# --- rows -------------------------------------------------------------------------------------------------------------


class Traffic(NamedTuple):
    """Collectives of one kind that one process takes part in during a step."""

    what: str
    axis: str
    collective: str
    calls: int
    payload: int
    """Bytes of the whole tensors: after they are gathered, or before they are summed."""

    moved: int
    """Bytes that come into the process over its link."""

    link: str
    seconds: float
    """If nothing hid it."""


MOVED = {"all_gather": 1.0, "reduce_scatter": 1.0, "all_reduce": 2.0, "all_to_all": 1.0}
"""Times (n - 1) / n of the payload that come into a process of a ring of n (arXiv:1909.08053 counts the same)."""


class _Rows:
    """Collects rows of one layout."""

    def __init__(self, layout: Layout, gpu: GPU) -> None:
        self.layout, self.gpu, self.rows = layout, gpu, list[Traffic]()

    def add(self, what: str, axis: str, collective: str, *, calls: float, payload: float) -> None:
        """Adds ``calls`` collectives of ``payload`` bytes in all."""
        on = link(self.layout, axis, self.gpu)
        if on.members > 1 and calls:
            n = on.members
            moved = payload if collective == "send" else payload * MOVED[collective] * (n - 1) / n
            seconds = on.seconds(calls, moved)
            self.rows.append(
                Traffic(what, axis, collective, round(calls), round(payload), round(moved), on.name, seconds)
            )


class Step(NamedTuple):
    """What a rank of a pipeline does in a step."""

    decoder: Decoder
    layout: Layout
    n: Tokens
    micro_batches: int
    rank: int

    @property
    def stages(self) -> dict[int, range]:
        """Its stages, and their blocks."""
        return blocks_of(self.decoder.num_layers, self.layout, self.rank)

    @property
    def passes(self) -> int:
        """How often a block goes forward and backward."""
        return sum(map(len, self.stages.values())) * self.micro_batches

    @property
    def redone(self) -> float:
        """How many of these forwards are repeated."""
        return self.passes * self.layout.repeated


def traffic(step: Step, gpu: GPU) -> list[Traffic]:
    """Returns all that a process takes part in during a step, but for a few numbers for norms, losses and routing."""
    rows = _Rows(step.layout, gpu)
    for part in (_sharding, _copies, _tensor, _context, _experts, _pipeline):
        part(step, rows)
    return rows.rows


# --- weights and gradients --------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """Weights that travel together; blocks are alike."""

    parts: tuple[Weight, ...]
    """As they stand in one process while they are used."""

    expert: bool
    again: bool
    """Whether they are sharded again after a forward, under zero 3."""

    number: int
    """How many groups there are like this."""

    @property
    def block(self) -> bool:
        """Whether they are of a block, and not of the network's ends."""
        return self.parts[0].name.startswith("layers.")

    @property
    def numel(self) -> int:
        """How many numbers stand in one process while one of them is used."""
        return sum(part.numel for part in self.parts)

    def whole(self, parts: int) -> int:
        """How many numbers are gathered for one of them: every weight's shards are as long as its first."""
        return sum(_padded(part.shape, parts) for part in self.parts)


@cache
def _padded(shape: tuple[int, ...], parts: int) -> int:
    return -(-shape[0] // parts) * parts * math.prod(shape[1:])


def groups(step: Step) -> list[Group]:
    """Returns the groups that FSDP gathers one by one: ends, experts that are spread, and blocks."""
    layout = step.layout
    return list(
        _groups(step.decoder, replace(layout.pipeline, tp=layout.tp, dp_shard=layout.ep, ep=layout.ep), step.rank)
    )


@cache
def _groups(decoder: Decoder, layout: Layout, rank: int) -> tuple[Group, ...]:
    """The same, where of the layout only tp, ep and the pipeline count.

    Norm and head are needed again at once after their forward, where there is no pipeline. Ends that share weights are
    one group.
    """
    last, made = layout.stages - 1, []
    for number, layers in blocks_of(decoder.num_layers, layout, rank).items():
        ends = [*weights(decoder, (), first=number == 0, last=number == last)]
        apart = [w for w in block_weights(decoder, "*") if w.expert and layout.ep > 1]
        together = [w for w in block_weights(decoder, "*") if w not in apart]
        found = [(apart, True, len(layers)), (together, True, len(layers))]
        if decoder.tie_embeddings and number == 0 == last:
            found.append((ends, False, 1))
        else:
            found += [([w], w.name == "embedding.weight" or layout.pp > 1, 1) for w in ends]
        for parts, again, times in found:
            if parts and times:
                made.append(Group(tuple(local(w, layout) for w in parts), parts is apart, again, times))
    return tuple(made)


def _sharding(step: Step, rows: _Rows) -> None:
    """Weights are gathered and gradients summed over fsdp, group by group."""
    layout, every = step.layout, groups(step)
    sums = 1 if layout.zero == 1 else step.micro_batches
    for expert in (False, True):
        axis, parts = ("efsdp", layout.sharded // layout.ep) if expert else ("fsdp", layout.sharded)
        own = [group for group in every if group.expert == expert]
        gathers = [(group.number * _gathers(step, group), group.whole(parts)) for group in own]
        payload = sum(turns * whole for turns, whole in gathers) * BYTES[layout.precision]
        rows.add("weights", axis, "all_gather", calls=sum(turns for turns, _ in gathers), payload=payload)
        summed = sums * sum(group.number * group.whole(parts) for group in own) * layout.summed
        rows.add("gradients", axis, "reduce_scatter", calls=sums * sum(g.number for g in own), payload=summed)


def _gathers(step: Step, group: Group) -> int:
    """How often a group is gathered in a step: before each forward and backward, each forward, or once.

    A pipeline under zero 2 gathers before each forward, as gradients that are summed leave shards behind.
    """
    zero, m = step.layout.zero, step.micro_batches
    if zero == 3:
        return m * (1 + group.again)
    return m if zero == 2 and step.layout.pp > 1 else 1


def _copies(step: Step, rows: _Rows) -> None:
    """Gradients are summed over copies of the weights: shards group by group, whole ones in buckets."""
    layout, every = step.layout, groups(step)
    if layout.sharded > 1 or BYTES[layout.precision] < FLOAT:
        payload = 0
        for group in every:
            parts = layout.sharded // (layout.ep if group.expert else 1)
            payload += group.number * group.whole(parts) // parts * layout.summed
        rows.add("gradients", "dp_replicate", "all_reduce", calls=sum(g.number for g in every), payload=payload)
        return
    size = sum(group.number * group.numel for group in every) * FLOAT
    rows.add("gradients", "dp_replicate", "all_reduce", calls=math.ceil(size / BUCKET_BYTES), payload=size)


# --- states -----------------------------------------------------------------------------------------------------------


def _tensor(step: Step, rows: _Rows) -> None:
    """States are collected before, and summed after, attention and the feed-forward part (arXiv:2205.05198).

    Backward each turns into the other. A repeated forward ends when all that was saved is there again: before the last
    sum.
    """
    layout, n, m = step.layout, step.n, step.micro_batches
    size = n.t * step.decoder.d_model * BYTES[layout.precision]
    ends = m * ((0 in step.stages) + (layout.stages - 1 in step.stages))
    if layout.sequence_parallel:
        collected, summed = 4 * step.passes + 2 * step.redone + ends, 4 * step.passes + step.redone + ends
        rows.add("states", "tp", "all_gather", calls=collected, payload=collected * size)
        rows.add("states", "tp", "reduce_scatter", calls=summed, payload=summed * size)
        norms = 2 * step.passes // m + (layout.stages - 1 in step.stages)
        fsdp = layout.sharded > 1 or BYTES[layout.precision] < FLOAT
        sums, size = (m, BYTES[layout.precision]) if fsdp and layout.zero > 1 else (1, FLOAT)
        payload = sums * norms * step.decoder.d_model * size
        rows.add("gradients of norms", "tp", "all_reduce", calls=sums * norms if fsdp else 1, payload=payload)
    else:
        summed = 4 * step.passes + step.redone + ends
        rows.add("states", "tp", "all_reduce", calls=summed, payload=summed * size)
    if layout.loss_parallel and layout.stages - 1 in step.stages:  # largest scores, then sums and those of the targets
        rows.add("losses", "tp", "all_reduce", calls=2 * m, payload=3 * m * n.t * FLOAT)


def _context(step: Step, rows: _Rows) -> None:
    """Keys and values go round or are gathered, or heads are exchanged for tokens."""
    decoder, layout, cp = step.decoder, step.layout, step.layout.cp
    size, forwards = BYTES[layout.precision], step.passes + step.redone
    keys = 2 * step.n.t * decoder.width["KV"] // layout.tp
    if layout.cp_method == "ring":
        sent = (forwards + step.passes) * (cp - 1)
        rows.add("keys, values", "cp", "send", calls=sent, payload=sent * keys * size)
        rows.add("their gradients", "cp", "send", calls=step.passes * cp, payload=step.passes * cp * keys * FLOAT)
    elif layout.cp_method == "gather":
        rows.add("keys, values", "cp", "all_gather", calls=forwards, payload=forwards * cp * keys * size)
        sums = step.passes * cp * keys * size
        rows.add("their gradients", "cp", "reduce_scatter", calls=step.passes, payload=sums)
    else:
        copies = math.lcm(decoder.num_kv_heads // layout.tp, cp) // (decoder.num_kv_heads // layout.tp)
        heads = 2 * step.n.t * decoder.width["Q"] // layout.tp + keys * copies
        turns = forwards + step.passes
        rows.add("heads", "cp", "all_to_all", calls=2 * turns, payload=turns * heads * size)


def _experts(step: Step, rows: _Rows) -> None:
    """Tokens travel to their experts and back, forward and backward; evenly spread ones."""
    decoder = step.decoder
    size = step.n.t * decoder.num_experts_per_token * decoder.d_model * BYTES[step.layout.precision]
    calls = 2 * (2 * step.passes + step.redone) if decoder.num_experts else 0
    rows.add("tokens", "ep", "all_to_all", calls=calls, payload=calls * size)


def _pipeline(step: Step, rows: _Rows) -> None:
    """States come from the stage before, and their gradients from the stage after, where these are elsewhere."""
    layout, here = step.layout, set(step.stages)
    near = [n for stage in here for n in (stage - 1, stage + 1) if 0 <= n < layout.stages and n not in here]
    calls = step.micro_batches * len(near)
    size = step.n.s * step.decoder.d_model * BYTES[layout.precision]
    rows.add("states", "pp", "send", calls=calls, payload=calls * size)
