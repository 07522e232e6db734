"""`plan` ranks layouts, says why others fail, and keeps what is asked for."""

import json

import pytest

SMALL = ("llama_100m", "--gpus", 8, "data.sequence_len=1024")


@pytest.fixture
def planned(anemone):
    """Runs `anemone plan ... --json` and returns what it prints."""

    def run(*words):
        ran = anemone("plan", *words, "--json")
        return ran.status, json.loads(ran.out) if ran.out else ran.err

    return run


def test_layouts_are_ranked_by_the_time_of_a_step(planned):
    status, found = planned(*SMALL)
    times = [layout["step_seconds"] for layout in found["layouts"]]
    assert status == 0 and times == sorted(times) and len(times) == 10
    for layout in found["layouts"]:
        degrees = layout["layout"]
        world = degrees["dp_replicate"] * degrees["dp_shard"] * degrees["cp"] * degrees["tp"] * degrees["pp"]
        assert world == 8 and sum(layout["memory_bytes"].values()) < 79.1 * 2**30


def test_what_is_asked_for_is_kept(planned):
    _, found = planned(*SMALL, "parallel.tp=4", "parallel.recompute=full")
    assert {(one["layout"]["tp"], one["layout"]["recompute"]) for one in found["layouts"]} == {(4, "full")}


def test_a_layout_that_is_told_trains(planned):
    """Its overrides make the settings that it was planned with."""
    from anemone.training.settings import experiment

    _, found = planned("llama_405b", "--gpus", 1024, "--top", 1, "--sequences", 512)
    best = found["layouts"][0]
    config = experiment("llama_405b", best["overrides"])
    layout = config.parallel.resolve(1024)
    for name in ("dp_replicate", "dp_shard", "cp", "tp", "pp", "ep", "zero", "stages_per_rank"):
        assert getattr(layout, name) == best["layout"][name]
    assert config.trainer.batches_per_step == 512


def test_tables_say_all_there_is_to_know(anemone):
    ran = anemone("plan", *SMALL, "--top", 3)
    assert ran.status == 0
    for word in ("tokens/s/GPU", "MFU", "gathered", "activations", "collective", "gradients", "node", "layouts fit"):
        assert word in ran.out


def test_why_nothing_fits_is_said(anemone):
    ran = anemone("plan", "llama_405b", "--gpus", 8)
    assert ran.status == 1
    assert "0 layouts fit" in ran.out and "of 79.1 GiB" in ran.out


def test_every_refusal_is_listed_on_demand(anemone):
    ran = anemone("plan", *SMALL, "parallel.tp=8", "--refused")
    assert ran.status == 1 and "`parallel.tp` must be a divisor of the 12 of heads" in ran.out


def test_experts_whose_parts_would_be_uneven_are_refused(anemone):
    ran = anemone("plan", *SMALL, "model.num_experts=4", "model.d_ff=104", "parallel.tp=2", "--refused")
    assert ran.status == 1 and "`parallel.tp` must be such that each part of an expert's width, 104," in ran.out


@pytest.mark.parametrize(
    "words, said",
    [
        (("llama_8b", "--gpus", 8, "--gpu", "h100"), "Did you mean `h100-80gb`"),
        (("llama_8b", "--gpus", 0), "must be 1 or more"),
        (("quartznet_15x5_ctc", "--gpus", 8), "`model.kind` must be llama"),
        (("llama_8b", "--gpus", 8, "precision=fp8-te"), "`precision` must be one of 32, tf32"),
        (
            ("llama_8b", "--gpus", 8, "--gpu", "a100-80gb", "precision=fp8"),
            "`precision` must be one that a100-80gb has",
        ),
        (("llama_8b", "--gpus", 8, "optim.kind=muon"), "`optim.kind` must be one of adamw"),
        (("llama_8b", "--gpus", 8, "parallel.recompute={kind: auto, budget: 10GiB}"), "auto measures while it trains"),
    ],
)
def test_what_cannot_be_planned_is_refused(anemone, words, said):
    ran = anemone("plan", *words)
    assert ran.status == 2 and said in ran.err
