"""Ranks agree; alone, nothing changes."""

import pytest
import torch

from anemone.data.batch import Batch
from anemone.data.token_rows import TokenBatch
from anemone.testing import run_ranks
from anemone.training import ranks


def talk(rank):
    tensors = [torch.full((2, 2), float(rank)), torch.tensor(rank), torch.tensor([1.0, rank])]
    ranks.sum_together(tensors)
    weights = [torch.full((2,), float(rank + 5))]
    ranks.copy_from_first(weights)
    flags = ranks.any_rank([rank == 1, False, True], torch.device("cpu"))
    return (
        [t.tolist() for t in tensors],
        weights[0].tolist(),
        flags,
        ranks.gather_numbers([rank] * (rank + 1), torch.device("cpu")),
        ranks.is_first(),
    )


def test_ranks_sum_copy_vote_and_gather(monkeypatch):
    monkeypatch.setattr(ranks, "BUCKET", 3)
    for rank, (sums, weights, flags, gathered, first) in enumerate(run_ranks(2, talk)):
        assert sums == [[[1.0, 1.0], [1.0, 1.0]], 1, [2.0, 1.0]]
        assert weights == [5.0, 5.0] and flags == [True, False, True] and gathered == [0, 1, 1]
        assert first == (rank == 0)


def borrow(rank, kind):
    one = {
        "text": TokenBatch(*torch.arange(24).view(3, 2, 4), None, torch.tensor([5, 6])),
        "speech": Batch(torch.randn(2, 8), *torch.tensor([[8, 3], [1, 2], [1, 1], [0, 7]]), rate=8_000),
    }[kind]
    return ranks.lend(one if rank == 1 else None, torch.device("cpu")), one


@pytest.mark.parametrize("kind", ["text", "speech"])
def test_a_rank_without_a_batch_gets_that_of_another(kind):
    answers = run_ranks(3, borrow, kind)
    wanted = answers[1][1]
    for got, _ in answers:
        assert type(got) is type(wanted)
        for ours, theirs in zip(got, wanted, strict=True):
            assert torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs


def test_alone_everything_stays_as_it_is():
    tensor = torch.tensor([1.0, 2.0])
    ranks.sum_together([tensor])
    assert tensor.tolist() == [1.0, 2.0] and ranks.gather_numbers([3], torch.device("cpu")) == [3]
    assert ranks.any_rank([False, True], torch.device("cpu")) == [False, True]


@pytest.mark.parametrize(("names", "first"), [({}, True), ({"LOCAL_RANK": "1"}, False), ({"RANK": "0"}, True)])
def test_before_the_ranks_are_joined_the_launcher_says_who_is_first(monkeypatch, names, first):
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert ranks.is_first() == first
