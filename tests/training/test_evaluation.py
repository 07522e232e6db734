"""Metrics are those of all utterances, whatever the batches and ranks."""

import json

import pytest

from anemone.errors import DataError
from anemone.testing import run_ranks, tiny
from anemone.training.experiment import evaluate


def measured(rank, manifest):
    return evaluate(tiny("classification"), [manifest], batch_size=3)


def test_metrics_do_not_depend_on_batch_size_or_ranks(recordings):
    manifest = str(recordings / "test.jsonl")
    task = tiny("classification")
    whole = evaluate(task, [manifest], batch_size=100)
    assert set(whole) == {"loss", "accuracy", "mean_recall", "utterances", "left_out"}
    assert (whole["utterances"], whole["left_out"]) == (6, 0)
    assert evaluate(task, [manifest], batch_size=1) == pytest.approx(whole, rel=1e-5)
    for of_rank in run_ranks(3, measured, manifest):
        assert of_rank == pytest.approx(whole, rel=1e-5)


@pytest.fixture
def useless(recordings):
    """Makes a manifest of the recordings of the test set, with the labels given, and a broken line."""

    def make(*labels):
        lines = [json.loads(line) for line in (recordings / "test.jsonl").read_text().splitlines()]
        path = recordings / "useless.jsonl"
        rows = [json.dumps(line | {"label": label}) for line, label in zip(lines, labels, strict=False)]
        path.write_text("\n".join([*rows, "{"]))
        return str(path)

    return make


def outcome(rank, manifest):
    try:
        return evaluate(tiny("classification"), [manifest], batch_size=1)
    except DataError as error:
        return str(error)


def test_what_is_left_out_is_counted_over_all_ranks(useless):
    manifest = useless("yes", "other", "no", "other")
    alone = outcome(0, manifest)
    assert (alone["utterances"], alone["left_out"]) == (2, 3)
    for of_rank in run_ranks(2, outcome, manifest):
        assert of_rank == pytest.approx(alone, rel=1e-5)


def test_all_ranks_refuse_a_set_of_which_none_can_use_anything(useless):
    manifest = useless("other", "another")
    assert "none of 2 utterances could be used; the first: " in outcome(0, manifest)
    for of_rank in run_ranks(3, outcome, manifest):
        assert "none of 2 utterances could be used" in of_rank


def test_the_mode_of_the_task_is_left_as_it_was(recordings):
    task = tiny("classification").train()
    evaluate(task, [recordings / "test.jsonl"])
    assert task.training


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl` must be a manifest that exists"):
        evaluate(tiny("classification"), [tmp_path / "nowhere.jsonl"])
