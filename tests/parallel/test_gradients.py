import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from anemone.models.text.llama import LlamaConfig
from anemone.parallel import gradients
from anemone.parallel.apply import parallelize
from anemone.parallel.gradients import BucketedSum, split, total_norm
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.parallel.processes import run_ranks


def chain(width=4, layers=3):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


def test_buckets_keep_order_and_formats_apart(monkeypatch):
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 100)
    sizes, formats = (10, 10, 30, 5, 5), (torch.float32,) * 4 + (torch.float64,)
    parameters = [nn.Parameter(torch.zeros(n, dtype=kind)) for n, kind in zip(sizes, formats, strict=True)]
    assert [[p.numel() for p in bucket] for bucket in split(parameters)] == [[10, 10], [30], [5], [5]]


def sums(rank, overlap):
    """Gradients summed over ranks, one of which uses fewer layers; and how many buckets left before the end."""
    gradients.BUCKET_BYTES = 40
    network = chain()
    summed = BucketedSum(network.parameters(), dist.group.WORLD, overlap=overlap)
    left = []
    for last in (False, True):
        if last:
            summed.arm()
        used = network if rank == 0 else network[1:]
        used(torch.full((1, 4), rank + 1.0)).sum().backward()
        left.append(len(summed._sent))
    summed.finish()
    return left, len(summed.buckets), [p.grad for p in network.parameters()]


@pytest.mark.parametrize("overlap", [True, False])
def test_buckets_leave_during_the_last_backward_and_hold_sums(overlap):
    results = run_ranks(2, sums, overlap)
    truth = chain()
    for rank in (0, 1):
        used = truth if rank == 0 else truth[1:]
        for _ in range(2):
            used(torch.full((1, 4), rank + 1.0)).sum().backward()
    for rank, (left, buckets, found) in enumerate(results):
        assert buckets == 6 and left == [0, (6 if rank == 0 else 4) if overlap else 0]
        for gradient, parameter in zip(found, truth.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)


def norms(rank):
    """The norm of tensors that are sharded, copied and plain, and how many messages it took."""
    from torch.distributed.tensor.debug import CommDebugMode

    mesh = Mesh(ParallelConfig(pp=2, dp_shard=2, tp=2))
    torch.manual_seed(0)
    whole = [torch.randn(6, 4), torch.randn(5, 3), torch.randn(7), torch.randn(2, 2)]
    both = mesh.over("fsdp", "tp")
    parts = [
        distribute_tensor(whole[0], both, (Shard(0), Shard(1)), src_data_rank=None),
        distribute_tensor(whole[1], mesh.axis("fsdp"), (Shard(0),), src_data_rank=None),
        distribute_tensor(whole[2], both, (Shard(0), Replicate()), src_data_rank=None),
        whole[3],
    ]
    with CommDebugMode() as comm:
        norm = total_norm(parts, mesh.axis("pp").get_group())
    return norm, torch.cat([2**0.5 * part.flatten() for part in whole]).norm(), comm.get_total_counts()


def test_the_norm_counts_each_number_once_with_a_message_for_each_axis():
    for norm, truth, messages in run_ranks(8, norms):
        torch.testing.assert_close(norm, truth)
        assert messages == 3  # fsdp, tp, pp


def frozen(rank):
    """The norm where the layers of one stage do not learn."""
    network = LlamaConfig(size="tiny").build(16)
    network.layers["0"].requires_grad_(False)
    network.embedding.requires_grad_(False)
    parallel = parallelize(network, Mesh(ParallelConfig(pp=2)))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    parallel.reduce()
    return parallel.grad_norm().item(), sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_a_stage_may_be_frozen():
    results = run_ranks(2, frozen)
    count = sum(number for _, number in results)
    assert 0 in (number for _, number in results)
    assert [norm for norm, _ in results] == pytest.approx([count**0.5] * 2)
