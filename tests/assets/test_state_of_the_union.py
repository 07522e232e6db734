"""The shipped addresses: whole, apart between the sets, small."""

import json

from anemone.data.files import ASSETS

HOME = ASSETS / "state_of_the_union"


def rows(name):
    return [json.loads(line) for line in (HOME / f"{name}.jsonl").read_text("utf-8").splitlines()]


def test_no_address_is_in_both_sets_and_none_is_empty():
    train, valid = rows("train"), rows("valid")
    assert len(train) == 16 and [row["year"] for row in valid] == [1968, 1976]
    assert not {row["year"] for row in train} & {row["year"] for row in valid}
    assert len({row["text"] for row in train + valid}) == 18 and min(len(row["text"]) for row in train + valid) > 9_000


def test_no_passage_of_the_held_out_addresses_is_in_the_training_set():
    seen = " ".join(row["text"] for row in rows("train"))
    for row in rows("valid"):
        words = row["text"].split()
        passages = [" ".join(words[i : i + 20]) for i in range(0, len(words) - 20, 20)]
        assert sum(passage in seen for passage in passages) <= 1


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in HOME.glob("*.jsonl")) < 500_000
