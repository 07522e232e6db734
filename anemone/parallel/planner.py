"""Which layouts of a job fit on some accelerators, how fast each would be, and why the others do not work.

Every setting that is not asked for is tried. What degrees and schedules must obey is asked of the code that would run
them; what they ask of a network, whose numbers are all that is known of it here, `check` says again.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from anemone.config import must
from anemone.errors import ConfigError
from anemone.parallel.hardware import GIB, GPU
from anemone.parallel.memory import Decoder, Layout
from anemone.parallel.mesh import STAGES, ZERO_BUBBLE, ParallelConfig
from anemone.parallel.pipeline import check_count
from anemone.parallel.prediction import Job, Prediction, predict, worst_memory
from anemone.parallel.recompute import FullConfig, NoneConfig, SelectiveConfig

LEAST_SEQUENCE = 4096
"""Tokens that a rank keeps of a sequence at least, where context parallelism is tried unasked."""

MODES: dict[str, Any] = {"none": NoneConfig(), "selective": SelectiveConfig(), "full": FullConfig()}
"""Ways of recomputation that are tried."""


class Asked(NamedTuple):
    """What is to be planned."""

    decoder: Decoder
    sequence_len: int
    micro_batch: int
    """Sequences of a micro-batch."""

    sequences: int
    """Sequences of a step, over all processes."""

    gpus: int
    gpu: GPU
    base: ParallelConfig
    """Settings that are not searched."""

    fixed: Mapping[str, Any]
    """Settings of `parallel` that were asked for: name -> value."""

    optimizer: str = "adamw"
    precision: str = "bf16-true"


class Refused(NamedTuple):
    """A layout that does not work, and why."""

    config: ParallelConfig
    kind: str
    """What is in the way: memory, or the setting that an error names."""

    reason: str
    memory: int | None = None
    """Bytes that it would need, where that is the reason."""


class Plan(NamedTuple):
    """All layouts, the fastest first."""

    feasible: list[Prediction]
    refused: list[Refused]


def plan(asked: Asked) -> Plan:
    """Returns the layouts that fit, ranked by the time of a step, and those that do not, with the reasons."""
    feasible, refused = [], []
    for config in candidates(asked):
        found = judge(config, asked)
        if isinstance(found, Refused):
            refused.append(found)
        else:
            feasible.append(found)
    feasible.sort(key=lambda prediction: (prediction.step, prediction.needed))
    return Plan(feasible, refused)


# --- what is tried ----------------------------------------------------------------------------------------------------


def candidates(asked: Asked) -> Iterator[ParallelConfig]:
    """Yields the layouts to be judged; each choice that matters alone is made once."""
    decoder, gpus = asked.decoder, asked.gpus
    degrees = [n for n in range(1, gpus + 1) if gpus % n == 0]
    powers = [n for n in degrees if n & (n - 1) == 0]
    tried = {
        "tp": [n for n in powers if n <= asked.gpu.node],
        "pp": [n for n in degrees if n <= decoder.num_layers],
        "cp": [n for n in powers if n == 1 or asked.sequence_len // n >= LEAST_SEQUENCE],
    }
    tried |= {name: [asked.fixed[name]] for name in tried if name in asked.fixed}
    for tp, pp, cp in itertools.product(*tried.values()):
        rest, left = divmod(gpus, tp * pp * cp)
        if left or not rest:
            continue
        for shard in _tries(asked, "dp_shard", _shards(rest, asked.gpu.node // (tp * cp) or 1)):
            for ep in _tries(asked, "ep", _experts(decoder, shard * cp)):
                degree = {"tp": tp, "pp": pp, "cp": cp, "dp_shard": shard, "ep": ep}
                for choice in _choices(asked, pp, shard * cp):
                    yield replace(asked.base, **{"dp_replicate": None, **asked.fixed, **degree, **choice})


def _tries(asked: Asked, name: str, values: list[Any]) -> list[Any]:
    """The values of a setting to try: the one that was asked for, if it was."""
    return [asked.fixed[name]] if name in asked.fixed else values


def _shards(rest: int, node: int) -> list[int]:
    """Weights whole, sharded within a machine, or over all."""
    return sorted({1, math.gcd(rest, node), rest})


def _experts(decoder: Decoder, shards: int) -> list[int]:
    if not decoder.num_experts:
        return [1]
    return [n for n in range(1, decoder.num_experts + 1) if decoder.num_experts % n == 0 and shards % n == 0]


def _choices(asked: Asked, pp: int, shards: int) -> Iterator[dict[str, Any]]:
    """Ways to shard, to schedule and to recompute that differ for these degrees."""
    zeros = _tries(asked, "zero", [3, 2, 1] if shards > 1 else [asked.base.zero])
    schedules: list[tuple[str, int | None]] = [(asked.base.schedule, None)]
    if pp > 1:
        names = _tries(asked, "schedule", ["1f1b", "interleaved_1f1b", "zbv"])
        turns = _tries(asked, "stages_per_rank", [2, 4, 8])
        schedules = [
            (name, number) for name in names for number in (turns if name == "interleaved_1f1b" else [STAGES[name]])
        ]
    for zero, (schedule, number), mode in itertools.product(zeros, schedules, _tries(asked, "recompute", list(MODES))):
        recompute = MODES[mode] if isinstance(mode, str) else mode
        if not (schedule in ZERO_BUBBLE and pp > 1 and shards > 1 and zero != 1 and "zero" not in asked.fixed):
            yield {"zero": zero, "schedule": schedule, "stages_per_rank": number, "recompute": recompute}


# --- whether it works -------------------------------------------------------------------------------------------------


def judge(config: ParallelConfig, asked: Asked) -> Prediction | Refused:
    """Returns what a layout would do, or why it does not work.

    Args:
        config: the layout.
        asked: what is to be planned.
    """
    try:
        config = config.resolve(asked.gpus)
        micro_batches = check(config, asked)
    except ConfigError as error:
        return Refused(config, error.path.removeprefix("parallel."), str(error))
    layout = Layout.of(config, precision=asked.precision, recomputed=_recomputed(config.recompute, asked.decoder))
    job = Job(asked.decoder, asked.sequence_len, asked.micro_batch, micro_batches, asked.optimizer)
    memory = worst_memory(job, layout)
    if (needed := sum(memory.values())) > asked.gpu.memory:
        largest = ", ".join(
            f"{name} {size / GIB:.1f}" for name, size in sorted(memory.items(), key=lambda item: -item[1])[:3]
        )
        reason = f"needs {needed / GIB:.1f} of {asked.gpu.memory / GIB:.1f} GiB: {largest}"
        return Refused(config, "memory", reason, needed)
    return predict(job, layout, asked.gpu)


def _recomputed(recompute: Any, decoder: Decoder) -> float:
    """Share of the blocks that are recomputed."""
    if recompute is None or isinstance(recompute, NoneConfig):
        return 0.0
    if not isinstance(recompute, FullConfig):
        raise ConfigError(
            "`parallel.recompute.kind` must be none, full or selective for a plan, as auto measures while it trains, "
            "but is 'auto' instead.",
            path="parallel.recompute.kind",
        )
    blocks = len(range(decoder.num_layers)[: recompute.first : recompute.every])
    return blocks / decoder.num_layers


def check(config: ParallelConfig, asked: Asked) -> int:
    """Returns how many micro-batches each process that reads data has in a step.

    Raises:
        ConfigError: the layout does not divide the network or the step.
    """
    decoder, tp = asked.decoder, config.tp
    sizes = {"heads": decoder.num_heads, "heads of keys": decoder.num_kv_heads}
    sizes |= {"`model.d_ff`": decoder.d_ff, "vocabulary": decoder.vocab_size}
    for what, size in sizes.items():
        must(size % tp == 0, "parallel.tp", f"a divisor of the {size} of {what}", value=tp)
    rule = f"such that each part of an expert's width, {decoder.d_ff}, is a multiple of 8"
    must(not decoder.num_experts or decoder.d_ff % (8 * tp) == 0, "parallel.tp", rule, value=tp)
    rule = f"such that {config.stages} stages share {decoder.num_layers} layers"
    must(config.stages <= decoder.num_layers, "parallel.pp", rule, value=config.pp)
    rule = "1 where the head has the embedding's weights"
    must(config.pp == 1 or not decoder.tie_embeddings, "parallel.pp", rule, value=config.pp)
    rule = f"a divisor of {decoder.num_experts} experts"
    must(max(1, decoder.num_experts) % config.ep == 0, "parallel.ep", rule, value=config.ep)
    chunks = 2 * config.cp if config.cp > 1 and config.cp_balance == "zigzag" else config.cp
    chunks *= tp if config.sequence_parallel else 1
    rule = f"such that a sequence of {asked.sequence_len} divides by {chunks}"
    must(asked.sequence_len % chunks == 0, "parallel.cp", rule, value=config.cp)
    if config.cp_method == "ulysses":
        heads = decoder.num_heads // tp
        rule = f"a divisor of the {heads} heads of a rank under ulysses"
        must(heads % config.cp == 0, "parallel.cp", rule, value=config.cp)
    assert config.dp_replicate is not None
    readers = config.dp_replicate * config.dp_shard
    each, left = divmod(asked.sequences, readers * asked.micro_batch)
    rule = f"such that {asked.sequences} sequences of a step are micro-batches of {asked.micro_batch} for each of them"
    must(each > 0 and not left, "parallel.dp_shard", rule, value=readers)
    if config.pp > 1:
        check_count(config.schedule, config.pp, each, setting="parallel.schedule")
    return each
