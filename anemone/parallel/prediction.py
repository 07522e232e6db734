"""What one layout of one job would need and do: bytes in each process, bytes between them, seconds of a step."""

from dataclasses import replace
from typing import NamedTuple

from anemone.parallel import costs
from anemone.parallel.activations import BYTES, block, ends, in_flight, tokens
from anemone.parallel.costs import Pass
from anemone.parallel.hardware import GIB, GPU
from anemone.parallel.memory import FLOAT, Decoder, Layout, blocks_of, rank_alike, states
from anemone.parallel.traffic import Step, Traffic, groups, link, traffic

RESERVED = int(2.5 * GIB)
"""Bytes that the driver, communication libraries and the allocator keep for themselves."""


class Job(NamedTuple):
    """What is computed in one step."""

    decoder: Decoder
    sequence_len: int
    micro_batch: int
    """Sequences of a micro-batch."""
    micro_batches: int
    """Micro-batches of each process that reads data."""
    optimizer: str = "adamw"

    def sequences(self, layout: Layout) -> int:
        """Sequences of a step, over all processes."""
        return self.micro_batch * self.micro_batches * layout.data

    def step(self, layout: Layout, rank: int) -> Step:
        """What a rank of the pipeline does of it."""
        n = tokens(layout, self.sequence_len, self.micro_batch)
        return Step(self.decoder, layout, n, self.micro_batches, rank)


class Prediction(NamedTuple):
    """One layout with all that is known of it."""

    layout: Layout
    micro_batches: int
    memory: dict[str, int]
    """Bytes of the process that needs the most, by what they are for."""
    traffic: list[Traffic]
    """Of the process with the most blocks, over one step."""
    seconds: dict[str, float]
    """Parts of a step."""
    tokens_per_second: float
    """Of one process."""
    utilisation: float
    """Share of the bf16 peak that the model's own operations are (MFU)."""

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())

    @property
    def needed(self) -> int:
        """Bytes in the process that needs the most."""
        return sum(self.memory.values())


def predict(job: Job, layout: Layout, gpu: GPU) -> Prediction:
    """Returns what a layout needs and how long its step takes.

    Args:
        job: what is computed.
        layout: degrees and choices, all filled in.
        gpu: what computes it.
    """
    seconds = step_time(job, layout, gpu)
    rate = job.sequences(layout) * job.sequence_len / sum(seconds.values()) / layout.world
    used = rate * costs.model_operations(job.decoder, job.sequence_len) / gpu.peak["bf16"]
    busiest = max(range(layout.pp), key=lambda rank: _blocks(job, layout, rank))
    rows = traffic(job.step(layout, busiest), gpu)
    return Prediction(layout, job.micro_batches, worst_memory(job, layout), rows, seconds, rate, used)


def _blocks(job: Job, layout: Layout, rank: int) -> int:
    """How many blocks a rank of the pipeline has."""
    return sum(map(len, blocks_of(job.decoder.num_layers, layout, rank).values()))


# --- memory -----------------------------------------------------------------------------------------------------------


def worst_memory(job: Job, layout: Layout) -> dict[str, int]:
    """Returns the bytes of the process that needs the most: it has the first stage, the second or the last."""
    ranks = {0, min(1, layout.pp - 1), layout.pp - 1}
    return max((memory_of(job, layout, rank) for rank in ranks), key=lambda parts: sum(parts.values()))


def memory_of(job: Job, layout: Layout, rank: int) -> dict[str, int]:
    """Returns the bytes of a process, by what they are for.

    Args:
        job: what is computed.
        layout: degrees and choices.
        rank: of the process along ``pp``; along the other axes it is the first, which holds the most.
    """
    decoder = job.decoder
    exact = states(rank_alike(decoder, layout.pipeline, rank), layout, optimizer=job.optimizer)
    return {
        "weights": exact.weights,
        "gradients": exact.gradients,
        "optimizer": exact.optimizer,
        "gathered": gathered(job.step(layout, rank)),
        "activations": activations_of(job, layout, rank),
        "reserved": RESERVED,
    }


def gathered(step: Step) -> int:
    """Returns the bytes of weights that stand whole while they are used, and of what travels beside them.

    Under zero 3 these are a block, those that are gathered ahead, and what is never sharded within a step. The largest
    group has beside it the message it came in, its gradients, and the message these leave in.
    """
    layout, size = step.layout, BYTES[step.layout.precision]
    if layout.sharded == 1 and size == FLOAT:
        return 0  # the masters themselves are used
    every = groups(step)
    always = sum(group.number * group.numel for group in every if layout.zero < 3 or not group.again)
    messages = size + layout.summed if layout.sharded > 1 else 0
    peaks = [0]
    for group in every:
        ahead = min(layout.prefetch, max(0, group.number - 1)) if layout.zero == 3 and group.again else -1
        peaks.append(group.numel * ((1 + ahead) * size + size + messages))
    return always * size + max(peaks)


def activations_of(job: Job, layout: Layout, rank: int) -> int:
    """Returns the bytes of activations at the peak of a step, in one process of a rank of the pipeline."""
    decoder, n = job.decoder, tokens(layout, job.sequence_len, job.micro_batch)
    stages = blocks_of(decoder.num_layers, layout, rank)
    number = sum(map(len, stages.values()))
    chosen = block(decoder, layout, n, mode=layout.recompute)
    plain = block(decoder, layout, n, mode="none").kept
    redone = round(layout.repeated * number)
    chunks = layout.stages_per_rank
    batches = in_flight(layout.schedule, layout.pp, rank, chunks=chunks, micro_batches=job.micro_batches)
    passed = n.s * decoder.d_model * BYTES[layout.precision] * len(stages) if layout.pp > 1 else 0
    kept = batches * (chosen.kept * redone + plain * (number - redone) + passed)
    beside = ends(decoder, layout, n, first=0 in stages, last=layout.stages - 1 in stages)
    return round(kept) + (chosen.again if redone else 0) + beside


# --- time -------------------------------------------------------------------------------------------------------------


def step_time(job: Job, layout: Layout, gpu: GPU) -> dict[str, float]:
    """Returns the seconds of a step, in parts: of the slowest rank of the pipeline, and what it waits for."""
    m, step = job.micro_batches, job.step(layout, 0)
    one = block_pass(step, job.sequence_len, gpu)
    both = _communicated(step, gpu, one, job.sequence_len)
    head = costs.head_time(job.decoder, layout, step.n, gpu=gpu)
    last = [layout.stages - 1 in blocks_of(job.decoder.num_layers, layout, rank) for rank in range(layout.pp)]
    blocks = [_blocks(job, layout, rank) for rank in range(layout.pp)]
    passes = [both.times(number, head if end else None) for number, end in zip(blocks, last, strict=True)]
    slowest = max(range(layout.pp), key=lambda rank: sum(passes[rank]))
    alone = m * sum(one.times(blocks[slowest], head if last[slowest] else None))
    busy = m * sum(passes[slowest])
    idle = bubble(layout, [sum(time) for time in passes], passes[slowest], micro_batches=m)
    rest = once(job.step(layout, slowest), gpu, passes[slowest])
    numbers = states(rank_alike(job.decoder, layout.pipeline, slowest), layout, optimizer=job.optimizer)
    update = (5 * numbers.optimizer / 2 + 2 * numbers.weights) / (gpu.bandwidth * costs.MEMORY_SHARE)
    return {"compute": alone, "communication": busy - alone + rest, "bubble": idle, "optimizer": update}


def bubble(layout: Layout, ranks: list[float], slowest: Pass, *, micro_batches: int) -> float:
    """Returns the seconds in which the slowest rank of a pipeline waits.

    Every other rank's share of one micro-batch comes before the first and after the last of the slowest one; stages
    that take turns divide it (arXiv:2104.04473, section 2.2); what needs no order fills it: gradients of weights
    (arXiv:2401.10241, table 1). With fewer micro-batches than ranks, turns wait for the first one to come round.

    Args:
        layout: degrees and schedule.
        ranks: seconds of one micro-batch in each rank.
        slowest: those of the slowest one.
        micro_batches: of a step.
    """
    turns, own = layout.stages_per_rank, sum(slowest)
    filled = 2 / 3 if layout.schedule in ("interleaved_zero_bubble", "zbv", "dualpipev") else 0.0
    around = sum(ranks) * (1 - filled / 2) + (micro_batches - 1) * own / turns * (1 - filled)
    return max((sum(ranks) - own) / turns * (1 - filled), around - micro_batches * own)


def overlapped(work: float, transfer: float) -> float:
    """Seconds of work and a transfer at the same time."""
    return max(work, transfer) + costs.CONTENTION * min(work, transfer)


def block_pass(step: Step, sequence_len: int, gpu: GPU) -> Pass:
    """Returns the seconds of one block and one micro-batch, with recomputation, without communication."""
    layout = step.layout
    one = costs.block_time(step.decoder, layout, step.n, sequence_len=sequence_len, gpu=gpu)
    if layout.recompute == "none":
        return one
    again = one.forward
    if layout.recompute != "full":
        again = costs.trips(step.decoder, layout, step.n) / (gpu.bandwidth * costs.MEMORY_SHARE)
    if layout.recompute == "alternate":
        products = costs.block_products(step.decoder, layout, step.n)
        again += costs.products_time(products, layout, gpu, number=costs.number_of(layout.precision)) / 2
    return Pass(one.forward, one.backward + layout.repeated * again)


def _communicated(step: Step, gpu: GPU, time: Pass, sequence_len: int) -> Pass:
    """A block's pass with what cannot hide behind its work: one block, one micro-batch."""
    decoder, layout = step.decoder, step.layout
    one = step._replace(decoder=replace(decoder, num_layers=1), layout=replace(layout, pp=1), micro_batches=1, rank=0)
    exposed = {"tp": 0.0, "cp": 0.0, "ep": 0.0}
    for row in traffic(one, gpu):
        if row.axis in exposed:
            exposed[row.axis] += row.seconds
    if layout.async_tp:
        exposed["tp"] *= costs.ASYNC_TP
    if layout.cp_method == "ring":
        flops = costs.attention_operations(decoder, layout, step.n, sequence_len=sequence_len)
        hidden = 3.5 * flops * (layout.cp - 1) / layout.cp / gpu.attending(layout.kernels)[0]
        exposed["cp"] = max(0.0, exposed["cp"] - hidden)
    share, waits = 1 / (2 + layout.repeated), sum(exposed.values())
    forward, backward = time.forward + waits * share, time.backward + waits * (1 - share)
    if layout.sharded == 1:
        return Pass(forward, backward)
    gather = reduce = 0.0
    for group in groups(one):
        if group.block:
            on = link(layout, "efsdp" if group.expert else "fsdp", gpu)
            moved = group.whole(on.members) * (on.members - 1) / on.members
            gather += on.seconds(1, moved * BYTES[layout.precision])
            reduce += on.seconds(1, moved * layout.summed)
    first = layout.zero == 3 or (layout.zero == 2 and layout.pp > 1)
    last = (layout.zero == 3) * gather + (layout.zero > 1) * reduce
    return Pass(overlapped(forward, first * gather), overlapped(backward, last))


def once(step: Step, gpu: GPU, time: Pass) -> float:
    """Returns the seconds of what travels once a step and finds too little work to hide behind, and of a pipeline's
    messages.

    Weights hide behind the first forward, gradients behind the last backward; under zero 1 the gradients of a pipeline
    leave after it.
    """
    layout, exposed = step.layout, 0.0
    gradients = 0.0
    for row in traffic(step, gpu):
        repeated = layout.zero == 3 or (layout.zero == 2 and (row.what == "gradients" or layout.pp > 1))
        if row.axis == "pp":
            exposed += row.seconds
        elif row.what == "gradients" and (row.axis == "dp_replicate" or not repeated):
            gradients += row.seconds
        elif row.what == "weights" and not repeated:
            exposed += overlapped(time.forward, row.seconds) - time.forward
    return exposed + (gradients if layout.pp > 1 else overlapped(time.backward, gradients) - time.backward)
