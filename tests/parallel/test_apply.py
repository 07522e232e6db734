"""Layouts against one process: loss, gradient norm, each gradient, weights after SGD and after AdamW."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

from anemone.errors import ConfigError
from anemone.losses.token_cross_entropy import token_cross_entropy
from anemone.models.text.llama import LlamaConfig
from anemone.parallel.apply import parallelize
from anemone.parallel.gradients import local
from anemone.parallel.initial import initialize
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.processes import run_ranks
from anemone.testing import speech, tiny
from tests.parallel.steps import whole

LAYOUTS = {
    "copies": (2, {}),
    "zero 1": (2, {"dp_shard": 2, "zero": 1}),
    "zero 2": (2, {"dp_shard": 2, "zero": 2}),
    "zero 3": (2, {"dp_shard": 2}),
    "zero 3 in copies": (4, {"dp_shard": 2}),
    "tensor": (2, {"tp": 2}),
    "tensor with the sequence whole": (2, {"tp": 2, "sequence_parallel": False}),
    "tensor with the logits whole": (2, {"tp": 2, "loss_parallel": False}),
    "tensor, sharded": (4, {"tp": 2, "dp_shard": 2}),
    "tensor in a pipeline": (4, {"tp": 2, "pp": 2, "schedule": "zbv"}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_computes_what_one_process_does(name, parity, bars):
    processes, degrees = LAYOUTS[name]
    errors = parity(processes, ParallelConfig(**degrees))
    assert all(error <= bar for error, bar in zip(errors, bars, strict=True)), errors


@pytest.mark.parametrize(("degrees", "meta"), [({"tp": 2}, True), ({"dp_shard": 2}, True), ({"tp": 2}, False)])
def test_tied_embeddings_stay_tied(degrees, meta, parity, bars):
    errors = parity(2, ParallelConfig(**degrees), meta=meta, tie_embeddings=True, steps=1)
    assert all(error <= bar for error, bar in zip(errors, bars, strict=True)), errors


# --- what is sent, and when -------------------------------------------------------------------------------------------


def small(**changes):
    shape = {"d_model": 32, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "d_head": 8, "d_ff": 64}
    return LlamaConfig(size="custom", **{**shape, **changes}).build(32)


def tokens(rows=2, length=8):
    batch = torch.arange(rows * length).view(rows, length) % 32
    return batch, torch.arange(length).expand(rows, length)


def messages(rank, config, micro_batches):
    """What is sent in forward and backward of each micro-batch, and after the last."""
    network = small()
    parallel = parallelize(network, Mesh(config))
    counts = []
    for number in range(micro_batches):
        parallel.begin(last=number == micro_batches - 1)
        with CommDebugMode() as comm, warnings.catch_warnings(action="ignore"):
            token_cross_entropy(network(*tokens()), tokens()[0])[0].backward()
        counts.append({str(op).rpartition(".")[2]: count for op, count in comm.get_comm_counts().items()})
    with CommDebugMode() as comm:
        parallel.reduce()
        parallel.grad_norm()
    return counts, comm.get_total_counts()


UNITS = 6  # three blocks, embedding, norm and head
AGAIN = UNITS + 4  # without norm and head, which are needed again at once


@pytest.mark.parametrize(
    ("zero", "gathered", "summed"),
    [(1, [UNITS, 0, 0], [0, 0, UNITS]), (2, [UNITS, 0, 0], [UNITS] * 3), (3, [AGAIN] * 3, [UNITS] * 3)],
)
def test_zero_says_how_often_weights_are_gathered_and_gradients_summed(zero, gathered, summed):
    counts, after = run_ranks(2, messages, ParallelConfig(dp_shard=2, zero=zero), 3)[0]
    assert [count.get("_allgather_base_", 0) for count in counts] == gathered
    assert [count.get("_reduce_scatter_base_", 0) for count in counts] == summed
    assert after == 1  # the norm


def test_copies_of_shards_are_summed_once_a_step():
    counts, _ = run_ranks(4, messages, ParallelConfig(dp_shard=2, zero=2), 2)[0]
    assert [count.get("allreduce_", 0) for count in counts] == [0, UNITS]


def test_copies_send_all_gradients_in_one_message_during_the_last_backward():
    counts, after = run_ranks(2, messages, ParallelConfig(), 3)[0]
    assert counts == [{}, {}, {"allreduce_": 1}] and after == 0


def test_tensor_parallelism_sends_no_more_than_it_must():
    """A layer collects and scatters the sequence twice each way; embedding and head once; the loss sums twice."""
    counts, after = run_ranks(2, messages, ParallelConfig(tp=2), 1)[0]
    assert counts == [{"reduce_scatter_tensor": 14, "all_gather_into_tensor": 14, "allreduce_": 2}]
    assert after == 2  # the gains of all norms; the norm of the gradient


# --- what is refused --------------------------------------------------------------------------------------------------


CASES = [
    ({"tp": 2}, {"num_heads": 5, "num_kv_heads": 5}, r"`parallel.tp` must be a divisor of 5, .*`model.num_heads`"),
    ({"tp": 2}, {"num_kv_heads": 1}, r"`parallel.tp` must be a divisor of 1, .*`model.num_kv_heads`"),
    ({"tp": 2}, {"d_ff": 65}, r"`parallel.tp` must be a divisor of 65, .*`model.d_ff`"),
    ({"pp": 2, "schedule": "zbv"}, {}, r"`parallel.pp` must be such that .* is at most `model.num_layers`, 3"),
    ({"pp": 2}, {"tie_embeddings": True}, r"`head.weight` is `embedding.weight`.*tie_embeddings=false"),
    ({"dp_shard": 2, "ep": 2}, {}, r"`parallel.ep` must be 1 for this Llama"),
]


def refusals(rank):
    """What is said to each of the cases."""
    words = []
    for degrees, changes, _ in CASES:
        with torch.device("meta"):
            network = small(**changes)
        try:
            parallelize(network, Mesh(ParallelConfig(**degrees)))
        except ConfigError as error:
            words.append(str(error))
    return words


def test_networks_that_do_not_divide_are_refused():
    words = run_ranks(2, refusals)[0]
    assert len(words) == len(CASES)
    for said, (_, _, wanted) in zip(words, CASES, strict=True):
        assert re.search(wanted, said), said


def odd_length(rank, config):
    network = small()
    parallelize(network, Mesh(config))
    network(*tokens(length=7))


def test_sequences_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match=r"`data.sequence_len` must be .* but is 7 instead. Or set parallel.sequence"):
        run_ranks(2, odd_length, ParallelConfig(tp=2))


def unplanned(rank):
    parallelize(nn.Linear(2, 2), Mesh(ParallelConfig()))
    parallelize(nn.Linear(2, 2), Mesh(ParallelConfig(dp_shard=2)))
    parallelize(nn.Linear(2, 2), Mesh(ParallelConfig(tp=2)))


def test_networks_without_a_plan_are_refused_but_for_copies_and_shards():
    with pytest.raises(ConfigError, match=r"`parallel.tp` must be 1, as no part of Linear has a plan"):
        run_ranks(2, unplanned)


# --- logits, formats and speech ---------------------------------------------------------------------------------------


def logits(rank):
    """Whether logits are divided, and how large they are here."""
    found = []
    for loss_parallel in (True, False):
        network = small()
        parallelize(network, Mesh(ParallelConfig(tp=2, loss_parallel=loss_parallel)))
        out = network(*tokens())
        found.append((isinstance(out, DTensor), tuple(local(out).shape)))
    return found


def test_logits_stay_divided_unless_asked_otherwise():
    assert run_ranks(2, logits)[0] == [(True, (2, 8, 16)), (False, (2, 8, 32))]


def short_formats(rank, layouts):
    """Formats of logits, weights and gradients, and the norm of the gradient for each token, layout by layout."""
    return [short_format(config) for config in layouts]


def short_format(config):
    network, mesh = small(), Mesh(config)
    parallel = parallelize(network, mesh, short=torch.bfloat16)
    initialize(network, network.draw, 0)
    parallel.begin(last=True)
    with warnings.catch_warnings(action="ignore"):
        out = network(*tokens())
        token_cross_entropy(out, tokens()[0])[0].backward()
    parallel.reduce()
    parameters = list(network.parameters())
    formats = out.dtype, {p.dtype for p in parameters}, {p.grad.dtype for p in parameters}
    return formats, parallel.grad_norm().item() / mesh.data_world


def test_short_formats_keep_float32_weights_and_gradients():
    layouts = [ParallelConfig(), ParallelConfig(dp_shard=2), ParallelConfig(tp=2)]
    results = run_ranks(1, short_formats, layouts[:1])[0] + run_ranks(2, short_formats, layouts)[0]
    for formats, norm in results:
        assert formats == (torch.bfloat16, {torch.float32}, {torch.float32})
        assert norm == pytest.approx(results[0][1], rel=2e-2)


def spoken(rank, config):
    """Gradients of a recogniser whose ranks hear different words; rank by rank for one process."""
    network = tiny("recognition").train().requires_grad_().network
    mesh = Mesh(config)
    parallel = parallelize(network, mesh)
    heard = [mesh.data_rank] if mesh.world is not None else [0, 1]
    for i in heard:
        parallel.begin(last=i == heard[-1])
        audio = torch.as_tensor(speech(0.5, seed=i))[None]
        torch.manual_seed(i)  # of the dither
        network(audio, torch.tensor([audio.shape[1]])).x[..., 3].sum().backward()
    parallel.reduce()
    norm = parallel.grad_norm().item()
    return norm, {name: whole(p.grad) for name, p in network.named_parameters()}


@pytest.mark.parametrize(
    ("ranks", "degrees"), [(2, {}), (2, {"dp_shard": 2}), (2, {"dp_shard": 2, "zero": 1}), (4, {"tp": 2})]
)
def test_speech_is_laid_out_too(ranks, degrees):
    norm, gradients = spoken(0, ParallelConfig())
    there, found = run_ranks(ranks, spoken, ParallelConfig(**degrees))[0]
    assert there == pytest.approx(norm, rel=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-6, name
