"""Ranks that are not there: what the real code holds and issues, beside what the planner says of it."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from anemone.losses.token_cross_entropy import token_cross_entropy
from anemone.models.text.llama import LlamaConfig
from anemone.parallel.activations import tokens
from anemone.parallel.apply import parallelize
from anemone.parallel.gradients import local
from anemone.parallel.hardware import GPUS
from anemone.parallel.memory import Decoder, Layout, States
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.simulate import Recorder, pretending, simulate
from anemone.parallel.traffic import Step, traffic
from anemone.testing import run_ranks
from anemone.training.optim import AdamWConfig

Table = dict[tuple[str, str], tuple[int, int]]

VOCAB, ROWS, LENGTH = 256, 2, 64
NUMBERS: dict[str, Any] = {"size": "custom", "d_model": 64, "num_heads": 4, "num_kv_heads": 2, "d_ff": 176}
SHAPES = {
    "dense": LlamaConfig(**NUMBERS, num_layers=2),
    "tied": LlamaConfig(**NUMBERS, num_layers=2, tie_embeddings=True),
    "experts": LlamaConfig(**NUMBERS, num_layers=2, num_experts=4),
    "405b": LlamaConfig(size="405b"),
}


def decoder(shape: str) -> Decoder:
    """The planner's numbers of a shape."""
    return Decoder.of(SHAPES[shape].shape, sizes(shape)[0])


def layout_of(changes: dict[str, Any], world: int, *, precision: str = "bf16-true") -> Layout:
    """The planner's layout of settings of `parallel`."""
    return Layout.of(ParallelConfig(**changes).resolve(world), precision=precision)


def loss(logits: Any, targets: Tensor) -> Tensor:
    """What a step makes small."""
    return token_cross_entropy(logits, targets)[0]


def real_states(shape: str, world: int, rank: int, changes: dict[str, Any]) -> tuple[States, int, int]:
    """Bytes of weights, gradients and states of AdamW of one rank; its numbers along fsdp and pp."""
    return run_ranks(1, _states, shape, world, rank, changes)[0]


def _states(_: int, shape: str, world: int, rank: int, changes: dict[str, Any]) -> tuple[States, int, int]:
    dist.destroy_process_group()
    networks: list[nn.Module] = []
    kept: list[int] = []  # bytes of gradients that wait for the next micro-batch

    def build() -> nn.Module:
        networks.append(SHAPES[shape].build(VOCAB))
        return networks[0]

    def watched(logits: Any, targets: Tensor) -> Tensor:
        kept.append(held(waiting(networks[0])))
        return loss(logits, targets)

    with pretending(world, rank):
        config = ParallelConfig(**changes)
        given = {"tokens": (ROWS, LENGTH // config.cp), "micro_batches": 2 * config.pp, "short": torch.bfloat16}
        done = simulate(build, config, watched, **given)
        network, mesh = done.parallel.network, done.parallel.mesh
        gradients = held(p.grad for p in network.parameters())
        with done.fake:
            optimizer = AdamWConfig().build(network)
            optimizer.step()
        values = [value for state in optimizer.state.values() for value in state.values()]
        found = States(held(network.parameters()), max([gradients, *kept]), held(values))
        return found, mesh.rank("fsdp"), mesh.rank("pp")


def waiting(network: nn.Module) -> Iterator[Tensor | None]:
    """Gradients that were not summed over ranks yet."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            for group in module._get_fsdp_state()._fsdp_param_groups:
                yield from (parameter.unsharded_accumulated_grad for parameter in group.fsdp_params)


def held(tensors: Iterable[Tensor | None]) -> int:
    """Bytes that memory is there for, each counted once."""
    storages = {s._cdata: s.nbytes() for t in tensors if t is not None for s in [local(t).untyped_storage()]}
    return sum(storages.values())


def real_traffic(
    shape: str, world: int, rank: int, changes: dict[str, Any], micro_batches: int, *, short: bool = True
) -> tuple[Table, int]:
    """What one rank issues in a step; its number along pp."""
    return run_ranks(1, _traffic, shape, world, rank, changes, micro_batches, short, timeout=600)[0]


def _traffic(
    _: int, shape: str, world: int, rank: int, changes: dict[str, Any], m: int, short: bool
) -> tuple[Table, int]:
    dist.destroy_process_group()
    with pretending(world, rank):
        config, vocab, batch = ParallelConfig(**changes), *sizes(shape)
        given = {"tokens": (batch[0], batch[1] // config.cp), "micro_batches": m}
        short_type = torch.bfloat16 if short else None
        done = simulate(lambda: SHAPES[shape].build(vocab), config, loss, **given, short=short_type)
        return done.calls.table(), done.parallel.mesh.rank("pp")


def planned_traffic(
    shape: str, changes: dict[str, Any], world: int, stage: int, m: int, *, short: bool = True
) -> Table:
    """What the planner says of it."""
    layout = layout_of(changes, world, precision="bf16-true" if short else "32")
    rows, length = sizes(shape)[1]
    step = Step(decoder(shape), layout, tokens(layout, length, rows), m, stage)
    table: Table = {}
    for row in traffic(step, GPUS["h100-80gb"]):
        calls, payload = table.get((row.axis, row.collective), (0, 0))
        table[row.axis, row.collective] = calls + row.calls, payload + row.payload
    return table


def sizes(shape: str) -> tuple[int, tuple[int, int]]:
    """Vocabulary; sequences of a micro-batch and their length."""
    return (128_256, (1, 8192)) if shape == "405b" else (VOCAB, (ROWS, LENGTH))


def expert_traffic(changes: dict[str, Any], world: int) -> Table:
    """What the first of real ranks issues in a step of a mixture of experts."""
    return run_ranks(world, _expert_traffic, changes)[0]


def _expert_traffic(_: int, changes: dict[str, Any]) -> Table:
    mesh = Mesh(ParallelConfig(**changes), "cpu")
    network = SHAPES["experts"].build(VOCAB)
    parallel = parallelize(network, mesh, short=torch.bfloat16)
    ids = torch.randint(VOCAB, (ROWS, LENGTH))
    with Recorder(mesh) as recorder:
        parallel.begin(True)
        loss(parallel.network(ids, torch.arange(LENGTH).expand(ROWS, LENGTH)), ids).backward()
        parallel.reduce()
    return recorder.table()
