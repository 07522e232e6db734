"""Ranks agree; alone, nothing changes."""

import pytest
import torch

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
