"""Epochs over ranks, workers and stop points: every utterance comes as often as it should, wherever a run goes on."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anemone.data.epochs import Epochs
from anemone.data.loader import Loader, SpeechDataConfig
from anemone.data.manifest import Index
from anemone.data.plan import PlanConfig, set_draws
from anemone.errors import ConfigError

SIZES = (23, 9, 5)

budgets = st.fixed_dictionaries(
    {
        "batch_size": st.none() | st.integers(1, 9),
        "max_batch_seconds": st.none() | st.floats(0.05, 0.5),
        "max_batch_chars": st.none() | st.integers(1, 20),
        "num_buckets": st.integers(1, 4),
        "num_text_buckets": st.integers(1, 3),
        "shuffle_window": st.none() | st.integers(1, 40),
        "num_strata": st.integers(1, 5),
        "worst_first": st.booleans(),
    }
)
mixes = st.just({}) | st.fixed_dictionaries(
    {"epoch_size": st.none() | st.integers(1, 90), "temperature": st.floats(0.5, 9)},
    optional={"weights": st.tuples(*[st.sampled_from([0.0, 0.3, 1.0, 7.0])] * len(SIZES)).filter(any)},
)


@pytest.fixture(scope="module")
def sets(pieces, tmp_path_factory) -> Index:
    """Three manifests of one recording; texts are 1 to 9 characters."""
    lines, paths = pieces.read_text().splitlines(), []
    for number, size in enumerate(SIZES):
        rows = [json.loads(lines.pop()) for _ in range(size)]
        for row in rows:
            row["text"] = "ä" * (1 + int(row["text"]) % 9)
        paths.append(pieces.parent / f"set_{number}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANEMONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Index.read(paths, target="text")


def loaders(index: Index, plan: PlanConfig, world: int, per_step: int, position: dict[str, int], workers: int = 0):
    """The loaders of all ranks, at a position."""
    config = SpeechDataConfig(plan=plan, num_workers=workers)
    shared, made = config.shared(world), []
    for rank in range(world):
        settings = {"rank": rank, "world": world, "batches_per_step": per_step, "shared": shared}
        made.append(config.loader(index, lambda text: [len(text)], training=True, seed=3, **settings))
        made[-1].set_position(**position)
    return made


def run(ranks: list[Loader], steps: int) -> list[tuple[int, int, list[list[int]]]]:
    """Epoch, number and rows of so many steps, which the ranks take together; micro-batches in the plan's order."""
    taken = []
    while len(taken) < steps:
        places, passes = {json.dumps(rank.state_dict()) for rank in ranks}, [iter(rank) for rank in ranks]
        assert len(places) == 1  # all ranks stand at the same step
        place = json.loads(places.pop())
        for number in range(place["step"], ranks[0].steps(place["epoch"])):
            shares = [[batch.rows.tolist() for batch in next(one)] for one in passes]
            micro = [share[i] for i in range(max(map(len, shares))) for share in shares if i < len(share)]
            taken.append((place["epoch"], number, micro))
            if len(taken) == steps:
                return taken
        assert all(next(one, None) is None for one in passes)
    return taken


def check(index: Index, plan: PlanConfig, stops: list[tuple[int, int, int]], epochs: int, per_step: int) -> None:
    """Sittings of some steps each on so many ranks and workers make the epochs that one process makes."""
    plans = Epochs(index, plan, seed=3)
    total = plans.total_steps(epochs, per_step)
    taken: list[tuple[int, int, list[list[int]]]] = []
    position = {"epoch": 0, "step": 0}
    for world, workers, steps in [*stops, (1, 0, total)]:
        ranks = loaders(index, plan, world, per_step, position, workers)
        taken += run(ranks, min(steps, total - len(taken)))
        position = json.loads(json.dumps(ranks[0].state_dict()))  # as a checkpoint keeps it
    assert [(epoch, number) for epoch, number, _ in taken] == [
        (epoch, number) for epoch in range(epochs) for number in range(-(-len(plans[epoch]) // per_step))
    ]
    drawn = Counter()
    for epoch in range(epochs):
        micro = [rows for e, _, batches in taken if e == epoch for rows in batches]
        assert micro == [rows.tolist() for rows in plans[epoch]]
        rows = [row for rows in micro for row in rows]
        drawn.update(rows)
        if plan.mixes:
            counts = np.bincount(plans.sets[rows], minlength=len(SIZES)).tolist()
            assert counts == set_draws(index.durations, plan, plans.sets)
        else:
            assert sorted(rows) == list(range(len(index)))
    for number in range(len(SIZES)):  # of a set, no utterance is ahead of another by more than one pass
        own = [drawn[row] for row in np.flatnonzero(index.sets == number).tolist()]
        assert max(own) - min(own) <= 1


sittings = st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 6]), st.just(0), st.integers(0, 30)), max_size=4)


@settings(deadline=None, max_examples=150)
@given(budgets, mixes, sittings, st.integers(1, 3), st.sampled_from([12, 24]))
def test_sittings_on_any_ranks_take_what_one_process_takes(sets, budget, mix, stops, epochs, per_step):
    check(sets, PlanConfig(**budget, **mix), stops, epochs, per_step)


@settings(deadline=None, max_examples=6)
@given(budgets, mixes, st.lists(st.tuples(st.just(2), st.integers(0, 2), st.integers(1, 5)), min_size=2, max_size=2))
def test_sittings_with_any_workers_take_what_one_process_takes(sets, budget, mix, stops):
    check(sets, PlanConfig(**budget, **mix), stops, 2, 6)


def test_an_utterance_that_comes_again_is_another_copy(sets):
    """Draws of augmentation depend on the copy; it counts on over epochs, and is the epoch where all come once."""
    config = PlanConfig(batch_size=4, weights=(0, 0, 1), epoch_size=12, num_buckets=2)
    plans, seen = Epochs(sets, config, seed=0), Counter()
    for epoch in range(4):
        keys = plans.keys(epoch, range(len(plans[epoch])))
        seen.update(
            (row, copy) for copies, rows in keys for copy, row in zip(copies.tolist(), rows.tolist(), strict=True)
        )
    assert set(seen.values()) == {1}
    assert {row for row, _ in seen} == set(range(sum(SIZES[:2]), sum(SIZES)))
    assert {copy for _, copy in seen} == set(range(math.ceil(4 * 12 / SIZES[2])))
    for config in (PlanConfig(num_buckets=3), PlanConfig(temperature=1.0)):
        plans = Epochs(sets, config, seed=0)
        assert {copy for copies, _ in plans.keys(2, range(len(plans[2]))) for copy in copies.tolist()} == {2}


def test_text_lengths_are_characters(sets):
    assert Epochs(sets, PlanConfig(), seed=0).text_lens is None
    lens = Epochs(sets, PlanConfig(max_batch_chars=9), seed=0).text_lens
    assert lens.tolist() == [len(text) for text in sets.table["@target"].to_pylist()]


def test_an_epoch_is_described(sets, caplog):
    plans = Epochs(sets, PlanConfig(batch_size=8, weights=(1, 1, 2), epoch_size=20), seed=0)
    first, second = plans.describe()
    assert first.startswith("an epoch has 3 micro-batches of 4 to 8 utterances, at most 0.")
    assert second == "an epoch draws 5, 5, 10 utterances of the sets"


def test_weights_that_fit_no_sets_are_refused(sets):
    with pytest.raises(ConfigError, match=r"`data\.plan\.weights` must be one a set \(3\), but is \[1, 2\] instead"):
        Epochs(sets, PlanConfig(weights=(1, 2)), seed=0)[0]
    with pytest.raises(ConfigError, match=r"`plan\.weights` must be one for each of `data\.train` \(1\)"):
        SpeechDataConfig(train=("a",), plan=PlanConfig(weights=(1, 2)))
