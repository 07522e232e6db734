"""A plain training loop over any layout, and over one process, for comparison."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from anemone.losses.token_cross_entropy import token_cross_entropy
from anemone.models.text.llama import LlamaConfig
from anemone.parallel.apply import Parallel, parallelize
from anemone.parallel.context import shard_sequence
from anemone.parallel.gradients import local
from anemone.parallel.initial import initialize
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.processes import run_ranks
from tests.parallel.steps import whole

VOCAB, TOKENS, ROWS, MICRO_BATCHES = 64, 16, 2, 4
SHAPE: dict[str, Any] = {
    "size": "custom",
    "d_model": 64,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "d_head": 16,
    "d_ff": 96,
    "rope_theta": 100.0,
}
SGD_LR, ADAM_LR = 0.5, 3e-4


class Run(NamedTuple):
    """One step of SGD, then some of AdamW: numbers of each step, gradients of the first, weights after SGD and all."""

    losses: list[float]
    norms: list[float]
    gradients: dict[str, Tensor]
    after_sgd: dict[str, Tensor]
    weights: dict[str, Tensor]


class Errors(NamedTuple):
    loss: float
    norm: float
    gradient: float
    weight: float


BARS = Errors(loss=2e-6, norm=1e-5, gradient=1e-5, weight=1e-4)


def micro_batches(step: int, count: int = MICRO_BATCHES) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Tokens, targets of which some do not count, and positions."""
    generator = torch.Generator().manual_seed(1000 + step)
    made = []
    for _ in range(count):
        row = torch.randint(0, VOCAB, (ROWS, TOKENS + 1), generator=generator)
        targets = row[:, 1:].clone()
        targets[torch.rand(targets.shape, generator=generator) < 0.3] = -100
        made.append((row[:, :-1].contiguous(), targets, torch.arange(TOKENS).expand(ROWS, TOKENS)))
    return made


def build(meta: bool = False, **changes: Any):
    with torch.device("meta" if meta else "cpu"):
        return LlamaConfig(**{**SHAPE, **changes}).build(VOCAB)


def losses_of(parallel: Parallel, mine: list, schedule: Any, batches: list) -> Tensor:
    """Forward and backward of this rank's micro-batches; the sum of losses here."""
    total = torch.zeros(())
    if parallel.mesh.config.pp > 1:
        batches[:] = mine
        out = schedule.step([(tokens, positions) for tokens, _, positions in mine])
        return total + sum(loss.detach() for loss in out)
    for number, (tokens, targets, positions) in enumerate(mine):
        parallel.begin(last=number == len(mine) - 1)
        loss = token_cross_entropy(parallel.network(tokens, positions), targets)[0]
        loss.backward()
        total += loss.detach()
    return total


def train(config: ParallelConfig, steps: int = 2, meta: bool = True, count: int = MICRO_BATCHES, **changes: Any) -> Run:
    """Trains a Llama over all processes there are."""
    mesh = Mesh(config)
    network = build(meta, **changes)
    parallel = parallelize(network, mesh)
    initialize(network, network.draw, seed=7)
    batches: list = []
    schedule = None
    if mesh.config.pp > 1:
        schedule = parallel.schedule(lambda output, number: token_cross_entropy(output, batches[number][1])[0])
    parameters = list(network.parameters())
    parts = [torch.nn.Parameter(local(parameter)) for parameter in parameters]  # the same memory
    sgd = torch.optim.SGD(parts, lr=SGD_LR)
    adam = torch.optim.AdamW(parts, lr=ADAM_LR, weight_decay=0.1)
    run = Run([], [], {}, {}, {})
    for step in range(1 + steps):
        for parameter in parameters:
            parameter.grad = None
        everything = micro_batches(step, count)
        mine = everything[mesh.data_rank :: mesh.data_world]
        if mesh.config.cp > 1:
            mine = [tuple(shard_sequence(part, mesh, mesh.config) for part in batch) for batch in mine]
        loss = losses_of(parallel, mine, schedule, batches)
        parallel.reduce()
        tokens = sum(int((targets != -100).sum()) for _, targets, _ in everything)
        for parameter, part in zip(parameters, parts, strict=True):
            part.grad = local(parameter.grad).mul_(1 / tokens)
        for axis in ("loss", "pp"):
            if mesh.axis(axis):
                dist.all_reduce(loss, group=mesh.axis(axis).get_group())
        run.losses.append(loss.item() / tokens)
        run.norms.append(parallel.grad_norm().item())
        if step == 0:
            run.gradients.update({name: whole(p.grad) for name, p in network.named_parameters()})
        (adam if step else sgd).step()
        if step == 0:
            run.after_sgd.update({name: whole(p) for name, p in network.named_parameters()})
    run.weights.update({name: whole(p) for name, p in network.named_parameters()})
    return run


def compare(rank: int, config: ParallelConfig, truth: Run, options: dict[str, Any]) -> Errors:
    """Trains over all processes and measures how far this rank's part is from the truth."""
    run = train(config, **options)
    assert run.gradients and run.gradients.keys() <= truth.gradients.keys()
    return Errors(
        max(abs(a - b) for a, b in zip(run.losses, truth.losses, strict=True)),
        max(abs(a / b - 1) for a, b in zip(run.norms, truth.norms, strict=True)),
        max(float((g - truth.gradients[n]).norm() / truth.gradients[n].norm()) for n, g in run.gradients.items()),
        max(
            float((value - there[name]).abs().max())
            for here, there in ((run.after_sgd, truth.after_sgd), (run.weights, truth.weights))
            for name, value in here.items()
        ),
    )


@pytest.fixture(scope="session")
def parity() -> Callable[..., Errors]:
    """A function that trains in a layout on so many processes, and says how far it is from one process at worst."""
    truths: dict[str, Run] = {}

    def measure(processes: int, config: ParallelConfig, **options: Any) -> Errors:
        alone = {name: value for name, value in options.items() if name != "meta"}
        truth = truths.get(str(alone)) or truths.setdefault(str(alone), train(ParallelConfig(), **alone))
        errors = run_ranks(processes, compare, config, truth, options)
        return Errors(*(max(column) for column in zip(*errors, strict=True)))

    return measure


@pytest.fixture(scope="session")
def bars() -> Errors:
    """Errors that a layout may have."""
    return BARS
