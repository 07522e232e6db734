"""The helpers: speech is the same each time, tiny tasks work, ranks meet and report."""

import os
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist

from anemone.tasks import TASKS
from anemone.testing import run_ranks, speech, tiny


def test_speech_has_the_length_asked_for_and_is_the_same_each_time():
    audio = speech(1.5, seed=3)
    assert audio.shape == (24_000,) and audio.dtype == np.float32
    assert 0.02 < np.abs(audio).max() <= 1
    assert np.array_equal(audio, speech(1.5, seed=3))
    assert not np.array_equal(audio, speech(1.5, seed=4))
    assert np.array_equal(audio[:8000], speech(0.5, seed=3))
    assert speech(0.5, rate=8000).shape == (4000,)
    assert speech(0.0).shape == (0,)


def test_speech_is_louder_here_and_softer_there():
    energy = np.square(speech(4.0)).reshape(-1, 800).mean(1)
    assert np.quantile(energy, 0.9) > 5 * np.quantile(energy, 0.1)


@pytest.mark.parametrize("kind", TASKS)
def test_a_tiny_task_is_small_and_the_same_each_time(kind):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = tiny(kind), tiny(kind)
    assert torch.equal(torch.get_rng_state(), before)
    assert not one.training
    assert sum(p.numel() for p in one.parameters()) < 20_000
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), tiny(kind, seed=1).parameters(), strict=True))


def add_up(rank: int, start: float) -> tuple[int, torch.Tensor, str]:
    total = torch.tensor([start + rank])
    dist.all_reduce(total)
    return rank, total, os.environ.get("ANEMONE_TEST", "")


def fail_on_one(rank: int) -> None:
    if rank == 1:
        raise KeyError("lost")
    dist.barrier()


def end_at_once(rank: int) -> None:
    os._exit(3)


class Stubborn(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def fail_unreadably(rank: int) -> None:
    raise Stubborn(1, 2)


def give_a_function(rank: int) -> object:
    return lambda: rank


def wait_long(rank: int) -> None:
    time.sleep(30)


def test_ranks_meet_and_return_in_order(monkeypatch):
    monkeypatch.setenv("ANEMONE_TEST", "set")
    results = run_ranks(3, add_up, 1.0)
    assert [(rank, total.item(), word) for rank, total, word in results] == [
        (0, 6, "set"),
        (1, 6, "set"),
        (2, 6, "set"),
    ]


def test_an_exception_comes_back_with_its_rank():
    with pytest.raises(KeyError, match="lost") as caught:
        run_ranks(2, fail_on_one)
    assert "raised in rank 1 of 2" in caught.value.__notes__[0]
    assert "in fail_on_one" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "fn, error, words",
    [
        (end_at_once, RuntimeError, "ended without a word"),
        (fail_unreadably, RuntimeError, "Stubborn: 1 and 2"),
        (give_a_function, Exception, "pickle"),
    ],
)
def test_what_cannot_be_sent_is_told_in_words(fn, error, words):
    with pytest.raises(error, match=words):
        run_ranks(2, fn)


def test_stuck_ranks_are_ended():
    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] were not done in 1 s"):
        run_ranks(2, wait_long, timeout=1)


def test_a_local_function_is_refused():
    with pytest.raises(ValueError, match="`fn` must be a function of a module's top level"):
        run_ranks(1, lambda rank: rank)
