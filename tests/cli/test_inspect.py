"""`inspect` shows stages, wires, sizes and counts, of archives and of experiments."""

import pytest

from anemone.cli.inspect import stages, subject
from anemone.testing import tiny


def test_an_archive_is_shown_with_its_wiring(anemone, classifier):
    ran = anemone("inspect", classifier)
    number = sum(p.numel() for p in tiny("classification").parameters())
    assert ran.status == 0 and f"classification, quartznet, {number:,} parameters, 16000 Hz" in ran.out
    assert 'x: Audio["B S"] from input' in ran.out and 'x_len: Frames["B"] from features' in ran.out
    assert 'x: Logits["B V=3"]' in ran.out


def test_parameters_of_the_stages_add_up():
    task = tiny("recognition")
    counts = [int(row["parameters"].replace(",", "")) for row in stages(task) if "parameters" in row]
    assert sum(counts) == sum(p.numel() for p in task.parameters())


def test_an_experiment_is_built_without_memory():
    task = subject("speech_commands_quartznet", ["model=quartznet_15x5", "task.labels=[a,b]"])
    assert all(p.is_meta for p in task.parameters())
    assert sum(p.numel() for p in task.parameters()) > 18_000_000


def test_labels_of_an_experiment_come_from_its_manifests(anemone, experiment):
    ran = anemone("inspect", experiment)
    assert 'Logits["B V=3"]' in ran.out and not ran.err


def test_two_labels_stand_in_where_there_is_no_data_and_that_is_said(anemone):
    ran = anemone("inspect", "speech_commands_quartznet")
    assert ran.status == 0 and 'Logits["B V=2"]' in ran.out
    assert "data/speech_commands/train.jsonl" in ran.err and ran.err.count("\n") == 1


def test_a_model_takes_no_settings(anemone, classifier):
    ran = anemone("inspect", classifier, "optim.lr=1")
    assert ran.status == 2 and "`optim.lr=1` cannot be set" in ran.err


@pytest.mark.parametrize("name", ["letters.anemone", "mine.yaml"])
def test_the_graph_is_written(anemone, recogniser, experiment, tmp_path, name):
    ran = anemone("inspect", tmp_path / name, "--graph", tmp_path / "graph.svg")
    assert ran.status == 0 and "graph.svg" in ran.out
    assert (tmp_path / "graph.svg").read_text().startswith("<svg ")


@pytest.mark.parametrize("graph", ["nowhere/graph.svg", ".", ""])
def test_a_place_where_no_graph_can_be_written_is_named_before_anything_is_loaded(anemone, graph):
    ran = anemone("inspect", "telephone_words_quartznet", "--graph", graph)
    assert (ran.status, ran.out) == (2, "")
    assert f"`--graph` must be a file in a folder that exists, but is {graph!r} instead." in ran.err
