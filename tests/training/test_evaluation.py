"""Metrics are those of all utterances, whatever the batches and ranks."""

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
    assert set(whole) == {"loss", "accuracy", "mean_recall"}
    assert evaluate(task, [manifest], batch_size=1) == pytest.approx(whole, rel=1e-5)
    for of_rank in run_ranks(3, measured, manifest):
        assert of_rank == pytest.approx(whole, rel=1e-5)


def test_the_mode_of_the_task_is_left_as_it_was(recordings):
    task = tiny("classification").train()
    evaluate(task, [recordings / "test.jsonl"])
    assert task.training


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl` must be a manifest that exists"):
        evaluate(tiny("classification"), [tmp_path / "nowhere.jsonl"])
