"""The loader: every utterance once, the same for any number of ranks and workers, from any position."""

import json
import logging
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anemone.config import decode
from anemone.data.augmentation import Recipe
from anemone.data.batch import Batch
from anemone.data.loader import Loader, SpeechDataConfig
from anemone.data.manifest import Index
from anemone.data.plan import PlanConfig
from anemone.data.tars import member
from anemone.errors import ConfigError, DataError

AUGMENT = Recipe.parse(["speed", "gain", "white_noise"]).steps


def encode(text: str) -> list[int]:
    """The number a target is, and its digits."""
    return [int(text), *map(int, text)]


def loader(index: Index, *, training: bool = True, plan: PlanConfig | None = None, **settings) -> Loader:
    data = {
        key: settings.pop(key) for key in ("num_workers", "cache_mb", "skip_bad", "eval_batch_size") if key in settings
    }
    config = SpeechDataConfig(plan=plan or PlanConfig(batch_size=4), augment=AUGMENT, **data)
    return Loader(index, config, encode, training=training, seed=1, **settings)


def content(step: list[Batch]) -> list[tuple]:
    """A step as values that can be compared."""
    return [(b.rows.tolist(), b.audio.numpy().tobytes(), b.audio_len.tolist(), b.targets.tolist()) for b in step]


def epochs(loader: Loader, count: int = 1) -> list[list[tuple]]:
    return [content(step) for _ in range(count) for step in loader]


@pytest.fixture(scope="module")
def index(pieces, tmp_path_factory) -> Index:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANEMONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Index.read([pieces], target="text")


def test_a_batch_holds_what_the_manifest_says(index, x):
    ((batch,), *_) = loader(index, training=False)
    for i, number in enumerate(batch.rows.tolist()):
        row = index.row(number)
        start, count = round(row.offset * 16_000), round(row.duration * 16_000)
        assert batch.audio_len[i] == count
        assert np.abs(batch.audio[i, :count].numpy() - np.tile(x, 3)[start : start + count]).max() < 2**-15
        assert not batch.audio[i, count:].any()
        assert batch.targets[i, : batch.target_len[i]].tolist() == encode(str(number))
    assert batch.rate == 16_000
    assert batch.size == pytest.approx(sum(index.row(r).duration for r in batch.rows.tolist()), abs=1e-3)


plans = st.builds(
    PlanConfig,
    batch_size=st.integers(1, 9),
    max_batch_seconds=st.none() | st.floats(0.05, 0.5),
    num_buckets=st.integers(1, 4),
)


@settings(deadline=None, max_examples=60)
@given(plans, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.data())
def test_ranks_share_each_step_and_a_resume_on_other_ranks_loses_nothing(index, plan, world, multiple, epoch, data):
    """Over plans, ranks, steps per batch and stop points: every utterance once, and the sequence of one process."""
    per_step = 12 * multiple  # can be shared by 1, 2, 3 and 4 ranks
    settings = {"plan": plan, "batches_per_step": per_step, "cache_mb": 4}
    alone = loader(index, **settings)
    alone.set_position(epoch, 0)
    expected = epochs(alone)
    stop = data.draw(st.integers(0, len(expected)))
    again = data.draw(st.sampled_from([1, 2, 3, 4]))

    def run(world: int, start: tuple[int, int], steps: int | None) -> tuple[list, list]:
        ranks = [loader(index, rank=rank, world=world, **settings) for rank in range(world)]
        for rank in ranks:
            rank.set_position(*start)
        taken = [
            [content(step) for _, step in zip(range(99 if steps is None else steps), r, strict=False)] for r in ranks
        ]
        merged = []
        for shares in zip(*taken, strict=True):
            merged.append([shares[i % world][i // world] for i in range(sum(map(len, shares)))])
        return merged, [rank.state_dict() for rank in ranks]

    before, states = run(world, (epoch, 0), stop)
    assert all(state == states[0] for state in states)
    if stop == len(expected):
        assert stop == 0 or states[0] == {"epoch": epoch + 1, "step": 0}
        after = []
    else:
        assert states[0] == {"epoch": epoch, "step": stop}
        after, _ = run(again, (epoch, stop), None)
    assert before + after == expected
    rows = [row for step in expected for batch in step for row in batch[0]]
    assert sorted(rows) == list(range(len(index)))


@pytest.mark.parametrize("cache_mb", [0, 4])
def test_workers_change_nothing(index, cache_mb):
    settings = {"batches_per_step": 2, "plan": PlanConfig(batch_size=3, num_buckets=2), "cache_mb": cache_mb}
    expected = epochs(loader(index, **settings), 3)
    assert len({str(step) for step in expected}) == len(expected)
    for workers in (1, 2):
        assert epochs(loader(index, num_workers=workers, **settings), 3) == expected


@pytest.mark.parametrize(("workers", "stop", "again"), [(2, 3, 1), (1, 1, 2), (0, 4, 2), (2, 4, 0)])
def test_workers_and_ranks_together_resume_in_the_middle(index, workers, stop, again):
    settings = {"batches_per_step": 4, "plan": PlanConfig(batch_size=2)}
    expected = epochs(loader(index, **settings), 2)
    first = [loader(index, num_workers=workers, rank=rank, world=2, **settings) for rank in range(2)]
    shares = [[content(step) for _, step in zip(range(stop), each, strict=False)] for each in first]
    assert [[a[0], b[0], a[1], b[1]] for a, b in zip(*shares, strict=True)] == expected[:stop]
    state = first[0].state_dict()
    assert state == {"epoch": 0, "step": stop}
    other = loader(index, num_workers=again, **settings)
    other.set_position(**state)
    assert epochs(other, 2) == expected[stop:]
    # the same loader, abandoned and set back while its workers read ahead
    for _ in zip(range(2), other, strict=False):
        pass
    other.set_position(**state)
    assert epochs(other, 2) == expected[stop:]


def test_epochs_differ_in_order_and_augmentation(index):
    alone = loader(index)
    first, second = epochs(alone), epochs(alone)
    assert [rows for step in first for rows, *_ in step] != [rows for step in second for rows, *_ in step]
    clips = [{}, {}]
    for clip, steps in zip(clips, (loader(index), alone), strict=True):
        for step in steps:
            for batch in step:
                for row, audio, count in zip(batch.rows.tolist(), batch.audio, batch.audio_len, strict=True):
                    clip[row] = audio[:count].numpy().tobytes()
    assert sum(clips[0][row] != clips[1][row] for row in clips[0]) > len(index) / 2


def test_the_last_step_may_be_short_or_empty_on_a_rank(index):
    """37 batches of one, four a step, two ranks: the tenth step has one batch."""
    plan = PlanConfig(batch_size=1)
    ranks = [loader(index, plan=plan, rank=rank, world=2, batches_per_step=4) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [10, 10]
    assert [[len(step) for step in rank] for rank in ranks] == [[2] * 9 + [1], [2] * 9 + [0]]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_utterance_once_and_unchanged(index, world):
    ranks = [loader(index, training=False, rank=r, world=world, eval_batch_size=5) for r in range(world)]
    steps = [list(rank) for rank in ranks]
    assert all(len(step) == 1 for each in steps for step in each)
    assert [len(rank) for rank in ranks] == [len(each) for each in steps]
    rows = [row for each in steps for (batch,) in each for row in batch.rows.tolist()]
    assert sorted(rows) == list(range(len(index)))
    assert [content(step) for step in ranks[0]] == [content(step) for step in steps[0]]  # not augmented, no position
    assert ranks[0].state_dict() == {"epoch": 0, "step": 0}


def test_reading_does_not_touch_the_random_state(index):
    state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    for workers in (0, 1):
        epochs(loader(index, num_workers=workers))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_a_budget_in_seconds_gives_steps_per_epoch(index):
    each = loader(index, plan=PlanConfig(max_batch_seconds=0.2), batches_per_step=2)
    for epoch in range(3):
        assert len(each) == each.steps(epoch)
        assert len(list(each)) == each.steps(epoch)
    assert each.state_dict() == {"epoch": 3, "step": 0}


def test_a_position_that_does_not_exist_is_refused(index):
    each = loader(index)
    each.set_position(0, len(each))
    assert each.state_dict() == {"epoch": 1, "step": 0}
    with pytest.raises(DataError, match=r"step 11 of epoch 0 must be one of 10: the data, `data\.plan`"):
        each.set_position(0, 11)


def test_steps_are_shared_evenly(index):
    with pytest.raises(ConfigError, match=r"`batches_per_step` must be a multiple of the number of processes \(2\)"):
        loader(index, world=2, batches_per_step=3)


# --- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path, x) -> Path:
    """A manifest of twelve rows, of which four can be used."""
    soundfile.write(tmp_path / "good.wav", x, 16_000)
    soundfile.write(tmp_path / "none.wav", x[:0], 16_000)
    whole = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:9000])
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "noise.wav").write_bytes(bytes(range(256)) * 20)
    good = {"audio_filepath": "good.wav", "duration": 1.0, "text": "5"}
    changes: list[dict] = [{}, {"audio_filepath": "absent.wav"}, {}, {"audio_filepath": "none.wav"}, {"duration": 3.0}]
    changes += [{"audio_filepath": name} for name in ("cut.wav", "empty.wav", "noise.wav")]
    changes += [{}, {"text": "unknown"}, {"offset": 7.0}, {}]
    path = tmp_path / "damaged.jsonl"
    path.write_text("".join(json.dumps(good | change) + "\n" for change in changes))
    return path


CAUSES = {
    2: r"absent\.wav` must be an audio file, but does not exist",
    4: r"none\.wav` holds no audio",
    5: r"good\.wav` holds 1\.00 s from second 0 on, 3 s were asked for",
    6: r"cut\.wav` holds 0\.28 s from second 0 on, 1 s were asked for",
    7: r"empty\.wav` must be an audio file, but is empty",
    8: r"noise\.wav` cannot be decoded",
    10: r"`unknown` is not a number",
    11: r"good\.wav` holds no audio from second 7 on",
}


def strict_encode(text: str) -> list[int]:
    if not text.isdigit():
        raise DataError(f"`{text}` is not a number.")
    return [int(text)]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_used_is_reported_once_and_the_rest_goes_on(damaged, workers, caplog):
    index = Index.read([damaged], target="text")
    config = SpeechDataConfig(plan=PlanConfig(batch_size=3), num_workers=workers)
    each = Loader(index, config, strict_encode, training=True)
    with caplog.at_level(logging.WARNING, "anemone.data"):
        for _ in range(2):
            rows = [row for step in each for batch in step for row in batch.rows.tolist()]
            assert sorted(rows) == [0, 2, 8, 11]
    assert {problem.line for problem in each.problems} == set(CAUSES)
    assert len(each.problems) == len(CAUSES)
    for problem in each.problems:
        assert problem.file == str(damaged)
        assert caplog.text.count(f"{damaged}:{problem.line}: {problem.cause}") == 1
    assert all(re.search(CAUSES[problem.line], problem.cause) for problem in each.problems)
    assert caplog.text.count("left out 8 of 12 utterances in all") == 1


def test_a_batch_that_loses_all_its_utterances_leaves_an_empty_step(damaged):
    index = Index.read([damaged], target="text")
    plan = PlanConfig(batch_size=1, shuffle=False)
    each = Loader(index, SpeechDataConfig(plan=plan), strict_encode, training=True)
    assert [len(step) for step in each] == [1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1]
    evaluation = Loader(index, SpeechDataConfig(eval_batch_size=1), strict_encode, training=False)
    assert [len(step) for step in evaluation] == [1, 1, 1, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_used_ends_the_run_by_setting(damaged, workers):
    config = SpeechDataConfig(plan=PlanConfig(shuffle=False), skip_bad=False, num_workers=workers)
    each = Loader(Index.read([damaged], target="text"), config, strict_encode, training=True)
    with pytest.raises(DataError, match=r"damaged\.jsonl:2: `.*absent\.wav` must be an audio file, but does not exist"):
        list(each)


def test_nothing_to_use_ends_the_run(manifest):
    few = manifest([{"audio_filepath": f"{i}.wav", "duration": 1, "text": "1"} for i in range(5)])
    with pytest.raises(
        DataError, match=r"none of 5 utterances could be used; the first: .*manifest\.jsonl:\d: `.*\.wav`"
    ):
        list(Loader(Index.read([few], target="text"), SpeechDataConfig(), strict_encode, training=True))
    many = manifest([{"audio_filepath": f"{i}.wav", "duration": 1, "text": "1"} for i in range(500)])
    with pytest.raises(DataError, match=r"none of 1\d\d utterances could be used"):
        list(Loader(Index.read([many], target="text"), SpeechDataConfig(), strict_encode, training=True))


def test_a_rank_whose_share_is_useless_leaves_the_decision_to_those_who_know_all(damaged, caplog):
    index = Index.read([damaged], target="text")
    config = SpeechDataConfig(plan=PlanConfig(batch_size=1, shuffle=False), eval_batch_size=1)
    caplog.clear()
    for training in (True, False):
        each = [Loader(index, config, strict_encode, training=training, rank=rank, world=6) for rank in range(6)]
        given = [sum(len(batch.rows) for step in loader for batch in step) for loader in each]
        assert [loader.used for loader in each] == given and sum(given) == 4 and 0 in given
        assert set().union(*(loader.bad for loader in each)) == {line - 1 for line in CAUSES}
    assert "in all" not in caplog.text


def test_other_errors_are_not_swallowed(index):
    def broken(text: str) -> list[int]:
        raise KeyError(text)

    with pytest.raises(KeyError):
        list(Loader(index, SpeechDataConfig(), broken, training=True))


def test_the_reader_travels_to_workers_that_are_not_forked(index):
    each = loader(index)
    copy = pickle.loads(pickle.dumps(each._reader))
    key = (np.zeros(3, np.int64), np.arange(3))
    assert content([copy[key][0]]) == content([each._reader[key][0]])


def test_what_is_too_short_or_too_long_is_counted_once_with_the_limits(index, caplog):
    with caplog.at_level(logging.WARNING, "anemone.data"):
        few = loader(index, plan=PlanConfig(batch_size=4, min_seconds=0.03, max_seconds=0.05))
        assert not caplog.text
        rows = {row for step in epochs(few, 2) for batch in step for row in batch[0]}
    out = len(index) - len(rows)
    assert 0 < out < len(index) == 37
    assert caplog.text.count(f"left out {out} of 37 utterances: data.plan.min_seconds is 0.03, max_seconds 0.05") == 1
    caplog.clear()
    epochs(loader(index))
    epochs(loader(index, plan=PlanConfig(batch_size=4, min_seconds=0.03), rank=1, world=2))
    epochs(loader(index, plan=PlanConfig(min_seconds=0.03), training=False))
    assert not caplog.text


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"num_workers": -1}, r"`data\.num_workers` must be 0 or more"),
        ({"rate": 0}, r"`data\.rate` must be in 1\.\.384000"),
        ({"cache_mb": -1}, r"`data\.cache_mb` must be 0 or more"),
        ({"channel": -1}, r"`data\.channel` must be 0 or more"),
        ({"eval_batch_size": 0}, r"`data\.eval_batch_size` must be 1 or more"),
        ({"plan": {"batch_size": -2}}, r"`data\.plan\.batch_size` must be 1 or more"),
        ({"trian": []}, r"`data\.trian` is not a setting of SpeechDataConfig\. Did you mean `data\.train`"),
    ],
)
def test_impossible_settings_are_refused(tree, message):
    with pytest.raises(ConfigError, match=message):
        decode(SpeechDataConfig, tree, "data")


def test_a_recipe_s_manifests_are_opened_before_the_first_batch(index):
    recipe = Recipe.parse([{"noise": {"manifest": "nothing.jsonl"}}])
    with pytest.raises(DataError, match=r"`nothing\.jsonl` must be a manifest that exists"):
        Loader(index, SpeechDataConfig(augment=recipe.steps), encode, training=True)
    Loader(index, SpeechDataConfig(augment=recipe.steps), encode, training=False)


# --- where and how recordings lie -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_pieces_of_tars_channels_and_texts_of_any_language_come_as_the_rows_say(workers, x, tmp_path):
    """Members by name and by place, a channel of the row's own, offsets far into a recording."""
    soundfile.write(tmp_path / "двое.wav", np.stack([x, -0.5 * x], 1), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "long.flac", np.concatenate([np.zeros(600 * 16_000, np.float32), x, x]), 16_000)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name in ("long.flac", "двое.wav"):
            tar.add(tmp_path / name, name)
    place = str(member(tmp_path / "set.tar", "двое.wav")).removeprefix(f"{tmp_path}/")
    texts = ["これは", "привет, мир", "naïve", "مرحبا", "e\u0301a \U0001f600"]
    rows = [
        {"audio_filepath": "двое.wav", "duration": 1.0, "channel": 1},
        {"audio_filepath": "set.tar?member=двое.wav", "duration": 1.0, "channel": 0},
        {"audio_filepath": place, "duration": 1.0},
        {"audio_filepath": "long.flac", "offset": 600.5, "duration": 1.0},
        {"audio_filepath": "set.tar?member=long.flac", "offset": 600.5, "duration": 1.0},
    ]
    lines = [
        json.dumps(row | {"text": text}, ensure_ascii=i % 2 == 0)
        for i, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(lines), "utf-8")
    index = Index.read([tmp_path / "m.jsonl"], target="text")
    config = SpeechDataConfig(plan=PlanConfig(batch_size=2), num_workers=workers)
    each = Loader(index, config, lambda text: [*text.encode()], training=True)
    clips, said = {}, {}
    for step in each:
        for batch in step:
            for i, row in enumerate(batch.rows.tolist()):
                clips[row] = batch.audio[i, : batch.audio_len[i]].numpy()
                said[row] = bytes(batch.targets[i, : batch.target_len[i]].tolist()).decode()
    assert not each.problems and [said[row] for row in range(5)] == texts
    far = np.concatenate([x, x])[8_000:24_000]
    for row, expected in enumerate([-0.5 * x, x, 0.25 * x, far, far]):
        assert np.abs(clips[row] - expected).max() < 2**-15, row


def test_noise_that_cannot_be_read_costs_the_utterances_that_drew_it_and_no_other(index, tmp_path, x):
    soundfile.write(tmp_path / "good.wav", x, 16_000)
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    rows = [{"audio_filepath": name, "duration": 0.5} for name in ("good.wav", "bad.wav")]
    (tmp_path / "noise.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.parse([{"noise": {"manifest": str(tmp_path / "noise.jsonl"), "p": 1}}])
    reading = Loader(index, SpeechDataConfig(augment=recipe.steps), encode, training=True)
    used = [number for step in reading for batch in step for number in batch.rows.tolist()]
    assert 5 < len(used) < 32 and sorted([*used, *reading.bad]) == list(range(37))
    assert all("bad.wav` cannot be decoded" in problem.cause for problem in reading.problems)
