"""What one process sends and receives in a step, collective by collective, and over which links.

Counts and bytes are those that the code of `anemone.parallel` issues; `tests/parallel/test_simulate.py` compares them.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from anemone.parallel.activations import BYTES, Tokens
from anemone.parallel.hardware import GPU, LATENCY, LINK_SHARE
from anemone.parallel.memory import FLOAT, Decoder, Layout, Weight, blocks_of, held, local, weights

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
        return self.passes * self.layout.recomputed if self.layout.recompute != "none" else 0.0


def traffic(step: Step, gpu: GPU) -> list[Traffic]:
    """Returns all that a process takes part in during a step, but for a few numbers for norms, losses and routing."""
    rows = _Rows(step.layout, gpu)
    for part in (_sharding, _copies, _tensor, _context, _experts, _pipeline):
        part(step, rows)
    return rows.rows


# --- weights and gradients --------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """Weights that travel together."""

    parts: list[Weight]
    """As they stand in one process while they are used."""

    expert: bool
    again: bool
    """Whether they are sharded again after a forward, under zero 3."""

    def whole(self, parts: int) -> int:
        """How many numbers are gathered: every weight's shards are as long as its first."""
        return sum(held(w, Layout(dp_shard=parts)).padded * parts for w in self.parts)


def groups(step: Step) -> Iterator[Group]:
    """Yields the groups that FSDP gathers one by one: blocks, experts that are spread, ends, and the rest.

    Torch 2.13 lets the first group of a forward prefetch, in the backward of a second micro-batch, what the forward
    before ended with; nothing uses what is gathered last.
    """
    decoder, layout = step.decoder, step.layout
    last = layout.stages - 1
    for number, layers in step.stages.items():
        found: dict[str, list[Weight]] = {}
        for weight in weights(decoder, layers, first=number == 0, last=number == last):
            head, _, after = weight.name.partition(".")
            name = f"{head}.{after.partition('.')[0]}" if head == "layers" else head
            name += ".experts" * (weight.expert and layout.ep > 1)
            found.setdefault(name, []).append(local(weight, layout))
        tied = decoder.tie_embeddings and number == 0 == last
        rest = [name for name in found if "." not in name and (tied or (name == "embedding" and layout.tp > 1))]
        if rest:
            yield Group([part for name in rest for part in found.pop(name)], False, False)
        for name, parts in found.items():
            yield Group(parts, name.endswith(".experts"), True)


def _sharding(step: Step, rows: _Rows) -> None:
    """Weights are gathered and gradients summed over fsdp, group by group."""
    layout = step.layout
    for expert in (False, True):
        axis = "efsdp" if expert else "fsdp"
        parts = layout.sharded // (layout.ep if expert else 1)
        own = [(group.whole(parts), _gathers(step, group)) for group in groups(step) if group.expert == expert]
        if own and not expert and layout.pp == 1 and step.micro_batches > 1 and next(groups(step)).again:
            own.append((own[-1][0], 1))  # for nothing: see `groups`
        size = BYTES[layout.precision]
        calls, payload = sum(turns for _, turns in own), sum(turns * whole for whole, turns in own)
        rows.add("weights", axis, "all_gather", calls=calls, payload=payload * size)
        sums = 1 if layout.zero == 1 else step.micro_batches
        wholes = [group.whole(parts) for group in groups(step) if group.expert == expert]
        payload = sums * sum(wholes) * layout.summed
        rows.add("gradients", axis, "reduce_scatter", calls=sums * len(wholes), payload=payload)


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
    layout = step.layout
    if layout.sharded > 1 or BYTES[layout.precision] < FLOAT:
        own = list(groups(step))
        shards = sum(group.whole(layout.sharded // (layout.ep if group.expert else 1)) for group in own)
        payload = shards / layout.sharded * layout.summed
        rows.add("gradients", "dp_replicate", "all_reduce", calls=len(own), payload=payload)
        return
    sizes = [part.numel * FLOAT for group in groups(step) for part in group.parts]
    rows.add("gradients", "dp_replicate", "all_reduce", calls=math.ceil(sum(sizes) / BUCKET_BYTES), payload=sum(sizes))


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
