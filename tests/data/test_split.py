"""Parts: disjoint, deterministic, kept as sets grow; in proportion where that is asked for."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anemone.data.columns import Columns, opened
from anemone.data.split import split
from anemone.errors import ConfigError, DataError

PARTS = {"train": 0.8, "valid": 0.1, "test": 0.1}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return made(tmp_path_factory.mktemp("split"), 4000)


def made(folder, number):
    draw = np.random.default_rng(0)
    path = folder / f"{number}.jsonl"
    speakers, labels = draw.zipf(1.4, 4000) % 300, draw.choice(["a", "b", "c"], 4000, p=[0.9, 0.09, 0.01])
    rows = [
        {"audio_filepath": f"{i}.wav", "duration": 1, "text": "x", "speaker": f"s{speakers[i]}", "label": labels[i]}
        for i in range(number)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return opened([path])


def keys(index, rows, name):
    return set(Columns(index)[name].take(rows).to_pylist())


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), exact=st.booleans(), by=st.sampled_from(["speaker", "audio", "line"]))
def test_every_row_is_in_one_part_and_every_key_too(index, seed, exact, by):
    found = split(index, PARTS, by=by, exact=exact, seed=seed)
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(4000))
    parts = [keys(index, rows, by) for rows in found.values()]
    assert sum(map(len, parts)) == len(set.union(*parts))
    again = split(index, PARTS, by=by, exact=exact, seed=seed)
    assert all(np.array_equal(found[name], again[name]) for name in PARTS)


def test_a_set_that_grows_keeps_its_parts(index, tmp_path):
    small = split(made(tmp_path, 2500), PARTS, by="speaker")
    large = split(index, PARTS, by="speaker")
    for name, rows in small.items():
        assert set(rows.tolist()) == {row for row in large[name].tolist() if row < 2500}


def test_shares_are_met_in_the_mean_by_hash_and_nearly_where_they_are_exact(index):
    shares = {name: len(rows) / 4000 for name, rows in split(index, PARTS).items()}
    assert all(abs(shares[name] - PARTS[name]) < 0.03 for name in PARTS)
    sizes = {name: len(rows) for name, rows in split(index, PARTS, exact=True).items()}
    assert sizes == {"train": 3200, "valid": 400, "test": 400}


def test_parts_get_their_share_of_each_label(index):
    labels = np.array(Columns(index)["label"].to_pylist())
    found = split(index, PARTS, stratify="label")
    for label in "abc":
        number = int((labels == label).sum())
        for name, share in PARTS.items():
            assert abs(int((labels[found[name]] == label).sum()) - share * number) <= 1


def test_groups_stay_whole_where_labels_are_in_proportion(index):
    found = split(index, {"one": 0.5, "two": 0.5}, by="speaker", stratify="label")
    assert not keys(index, found["one"], "speaker") & keys(index, found["two"], "speaker")


@pytest.mark.parametrize("parts", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}])
def test_shares_that_are_none_are_refused(index, parts):
    with pytest.raises(ConfigError, match="parts"):
        split(index, parts)


def test_missing_keys_and_empty_parts_are_told(manifest):
    row = {"audio_filepath": "a.wav", "duration": 1, "text": "t"}
    index = opened([manifest([row | {"speaker": "x"}, row])])
    with pytest.raises(DataError, match=r"every row must have `speaker`, but 1 lack it; the first: .*:2 "):
        split(index, PARTS, by="speaker")
    with pytest.raises(DataError, match=r"part `\w+` gets no row: `audio` has 1 values"):
        split(index, PARTS)
