"""Parity: what a layout computes against what one process computes, from the same weights, on the same batches.

Both take one step of plain gradient descent, and then, from the start again, five of AdamW, which nearly ignores the
scale of a gradient but not its direction. Losses, gradient norms, every gradient and every weight are compared:

    loss      largest difference of any step's loss, and of the loss in evaluation afterwards
    norm      largest relative difference of any step's gradient norm
    gradient  largest |g - g'| / |g| (2-norms) of a tensor's gradient in the first step
    sgd       largest |w - w'| / |w| of a tensor after the step of gradient descent
    adamw     the same after the five steps of AdamW, with clipping

where a norm counts as 1e-6 of that of the whole at least: what is smaller is rounding error of the rest.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from anemone.data import MicroBatch
from anemone.errors import ConfigError
from anemone.parallel.apply import Parallel
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.processes import run_ranks
from anemone.training.engine import Engine
from anemone.training.evaluation import added
from anemone.training.experiment import ExperimentConfig
from anemone.training.layout import build_task, lay_out, num_shares, usual_batches
from anemone.training.optim import AdamWConfig, SGDConfig
from anemone.training.parity_layouts import NETWORKS, Row
from anemone.training.precision import precision
from anemone.training.settings import experiment

Spoil = Callable[[Parallel], None]
"""Makes a layout wrong, to see whether it is noticed."""

CPU = torch.device("cpu")
STEPS = 5
BATCHES = 4
"""Micro-batches of a step over all processes, unless a layout needs another number."""

TINY = 1e-6


class Errors(NamedTuple):
    """How far two runs are from each other."""

    loss: float
    norm: float
    gradient: float
    sgd: float
    adamw: float


SHORT = Errors(1e-3, 1e-3, 2e-2, 5e-3, 1e-2)
"""Where sums are cut up and each part is rounded to 8 bits of mantissa."""

SHORTEST = Errors(2e-3, 5e-3, 1e-1, 2e-2, 2e-2)
"""Where it is rounded to 4 bits or fewer: one process is as far from float32, and weights follow their gradient."""

BARS = {
    "32": Errors(2e-6, 1e-5, 1e-5, 1e-4, 1e-4),
    "16-mixed": Errors(1e-4, 1e-3, 3e-3, 1e-3, 2e-3),
    "bf16-mixed": SHORT,
    "bf16-true": SHORT,
    "fp8": SHORTEST,
    "fp8-rowwise": SHORTEST,
}
"""Precision -> the largest errors that pass, against one process of the same precision."""


class Trace(NamedTuple):
    """What a run computed."""

    losses: list[float]
    norms: list[float]
    gradients: dict[str, Tensor]
    sgd: dict[str, Tensor]
    adamw: dict[str, Tensor]


class Report(NamedTuple):
    """What came of a layout."""

    processes: int
    errors: Errors | None
    """None if it was refused."""

    worst: str
    """The tensor whose gradient is furthest off."""

    bars: Errors
    refusal: str = ""

    @property
    def passed(self) -> bool:
        """Whether no error is beyond its bar; one that is not a number is."""
        pairs = zip(self.errors or (math.nan,), self.bars, strict=False)
        return all(error <= bar for error, bar in pairs)


FAILED = Report(0, None, "", BARS["32"])
"""Of a layout whose processes did not come to an end as they should."""


def compare(config: ExperimentConfig, *, spoil: Spoil | None = None, timeout: float = 600.0) -> Report:
    """Runs a layout, and one process unless that was done before, and tells how far they are from each other.

    Args:
        config: of the experiment; its ``parallel`` is the layout.
        spoil: makes the layout wrong; a function of a module's top level.
        timeout: seconds that a layout may take.

    Raises:
        ConfigError: the precision cannot be had on a CPU.
    """
    parallel, number = config.parallel, processes(config.parallel)
    precision(config.precision, CPU)
    bars = BARS[config.precision]
    try:
        parallel = parallel.resolve(number)
        config = replace(config, trainer=replace(config.trainer, batches_per_step=micro_batches(config, parallel)))
        parts = run_ranks(number, trace, config, spoil, timeout=timeout)
    except ConfigError as error:
        return Report(number, None, "", bars, str(error))
    return Report(number, *distance(joined(parts), alone(config, timeout)), bars)


def prove(row: Row) -> Report:
    """What comes of a layout of the table."""
    name, *settings = NETWORKS[row.network]
    return compare(experiment(name, [*settings, *row.overrides]))


def processes(parallel: ParallelConfig) -> int:
    """How many processes a layout takes; copies of the weights that are not said count as one."""
    return num_shares(parallel) * parallel.cp * parallel.tp * parallel.pp


def micro_batches(config: ExperimentConfig, parallel: ParallelConfig) -> int:
    """Micro-batches of a step: those that are set, or a multiple of the usual number."""
    return config.trainer.batches_per_step or math.lcm(usual_batches(parallel), BATCHES)


ALONE: dict[str, Trace] = {}
"""What one process computed, by its settings."""


def alone(config: ExperimentConfig, timeout: float) -> Trace:
    """What one process computes, without any layout."""
    config = replace(config, parallel=ParallelConfig())
    if (key := repr(config)) not in ALONE:
        ALONE[key] = joined(run_ranks(1, trace, config, None, timeout=timeout))
    return ALONE[key]


def joined(parts: list[Trace]) -> Trace:
    """One trace of those of all ranks: each holds the tensors of its own stages."""
    whole: list[dict[str, Tensor]] = [{}, {}, {}]
    for part in parts:
        for tensors, own in zip(whole, part[2:], strict=True):
            tensors |= own
    return Trace(parts[0].losses, parts[0].norms, *whole)


def distance(ours: Trace, theirs: Trace) -> tuple[Errors, str]:
    """How far a run is from another one, and the tensor whose gradient is furthest off."""
    losses = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))
    norms = max(abs(a - b) / b for a, b in zip(ours.norms, theirs.norms, strict=True))
    gradients = relative(ours.gradients, theirs.gradients)
    worst = max(gradients, key=lambda name: gradients[name])
    weights = (max(relative(a, b).values()) for a, b in ((ours.sgd, theirs.sgd), (ours.adamw, theirs.adamw)))
    return Errors(losses, norms, gradients[worst], *weights), worst


def relative(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """The relative error of each tensor; infinite where one side does not have it, or it is not finite."""
    floor = TINY * float(torch.stack([tensor.norm() for tensor in theirs.values()]).norm())
    errors = dict.fromkeys(ours.keys() ^ theirs.keys(), math.inf)
    for name in ours.keys() & theirs.keys():
        error = float((ours[name] - theirs[name]).norm()) / max(float(theirs[name].norm()), floor)
        errors[name] = error if math.isfinite(error) else math.inf
    return errors


# --- in each process --------------------------------------------------------------------------------------------------


def trace(rank: int, config: ExperimentConfig, spoil: Spoil | None) -> Trace:
    """Takes the steps of one rank."""
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # how whole tensors are made
    index = config.data.read(config.data.train, task=config.task)
    config = replace(config, task=config.task.complete(index))
    sgd = _steps(config, index, SGDConfig(lr=0.5), 1, None, spoil)
    adamw = _steps(config, index, AdamWConfig(lr=3e-4, weight_decay=0.1), STEPS, 1.0, spoil)
    return Trace(sgd.losses + adamw.losses, sgd.norms + adamw.norms, sgd.gradients, sgd.sgd, adamw.sgd)


def _steps(
    config: ExperimentConfig, index: Any, optim: Any, number: int, clip_norm: float | None, spoil: Spoil | None
) -> Trace:
    """Steps of one optimizer from the first weights, and the loss in evaluation; no weights of AdamW."""
    task = build_task(config)
    found = precision(config.precision, CPU)
    laid_out = dist.get_world_size() > 1 or config.parallel != ParallelConfig() or found.weights is not None
    mesh = Mesh(config.parallel) if laid_out else None
    parallel = lay_out(task, mesh, precision=found, seed=config.run.seed)
    if spoil and parallel:
        spoil(parallel)
    engine = Engine(
        task,
        optim.build(task),
        lambda step: 1.0,
        parallel=parallel,
        precision=config.precision,
        clip_norm=clip_norm,
        seed=config.run.seed,
    )
    loader = config.data.loader(
        index,
        task.encode,
        training=True,
        seed=config.run.seed,
        rank=engine.data_rank,
        world=engine.data_world,
        batches_per_step=config.trainer.batches_per_step,
    )
    steps = list(islice(loader, number))
    results = [engine.step(step) for step in steps]
    # now, as the first evaluation of a pipeline lets go of the gradients of weights that are sharded
    gradients = {name: _whole(p.grad) for name, p in task.named_parameters() if p.grad is not None}
    evaluated = _evaluated(engine, steps[-1])
    weights = {name: _whole(p) for name, p in task.named_parameters()}
    return Trace([*(r.loss for r in results), evaluated], [r.grad_norm for r in results], gradients, weights, {})


def _evaluated(engine: Engine, batches: list[MicroBatch]) -> float:
    """The loss of a step's micro-batches in evaluation."""
    with engine.evaluation():
        states, _ = added(engine.task, batches, engine.device, engine.share)
    return engine.task.summarize(states)["loss"]


def _whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, on the CPU."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()
