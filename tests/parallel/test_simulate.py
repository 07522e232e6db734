"""What the real code issues, on ranks that are not there, is what the planner says: every collective, every byte."""

import pytest

from anemone.parallel.hardware import GPUS
from anemone.parallel.memory import Layout
from anemone.parallel.recompute import FullConfig, SelectiveConfig
from anemone.parallel.traffic import link
from tests.parallel.simulated import expert_traffic, planned_traffic, real_traffic

ALONE = {
    "sharded": (4, 0, {"dp_shard": 4}, 3),
    "sharded, summed once": (4, 0, {"dp_shard": 4, "zero": 1}, 3),
    "copies of shards": (4, 0, {"dp_shard": 2}, 2),
    "tensor": (4, 0, {"dp_shard": 2, "tp": 2}, 2),
    "ring": (4, 0, {"dp_shard": 2, "cp": 2}, 1),
    "gather": (4, 0, {"dp_shard": 2, "cp": 2, "cp_method": "gather"}, 1),
    "ulysses": (4, 0, {"dp_shard": 2, "cp": 2, "cp_method": "ulysses"}, 1),
    "pipeline": (4, 2, {"tp": 2, "pp": 2}, 4),
    "pipeline, summed once": (4, 0, {"dp_shard": 2, "pp": 2, "zero": 1}, 4),
    "the last of a pipeline": (4, 2, {"dp_shard": 2, "pp": 2, "zero": 2}, 4),
}


@pytest.mark.parametrize("name", ALONE)
def test_collectives_are_those_of_the_plan(name):
    world, rank, changes, batches = ALONE[name]
    real, stage = real_traffic("dense", world, rank, changes, batches)
    assert planned_traffic("dense", changes, world, stage, batches) == real


def test_whole_gradients_travel_in_buckets():
    real, _ = real_traffic("dense", 4, 0, {"tp": 2}, 2, short=False)
    assert planned_traffic("dense", {"tp": 2}, 4, 0, 2, short=False) == real


@pytest.mark.parametrize("mode", [FullConfig(), SelectiveConfig()])
def test_recomputation_communicates_again(mode):
    changes = {"cp": 2, "tp": 2, "recompute": mode}
    real, _ = real_traffic("dense", 4, 0, changes, 1)
    assert planned_traffic("dense", changes, 4, 0, 1) == real


def test_a_first_stage_may_gather_once_more_than_it_needs_under_zero_3():
    """Torch prefetches, for the first backward of several forwards, what no one asks for; once a step."""
    changes = {"dp_shard": 2, "pp": 2}
    real, _ = real_traffic("dense", 4, 0, changes, 4)
    plan = planned_traffic("dense", changes, 4, 0, 4)
    assert real.pop(("fsdp", "all_gather"))[0] - plan.pop(("fsdp", "all_gather"))[0] in (0, 1)
    assert real == plan


def test_tokens_travel_to_their_experts():
    """Routing needs real numbers, so that this takes real processes."""
    changes = {"dp_shard": 4, "ep": 2}
    real = expert_traffic(changes, 4)
    plan = planned_traffic("experts", changes, 4, 0, 1)
    for key in ("fsdp", "all_gather"), ("efsdp", "all_gather"), ("fsdp", "reduce_scatter"), ("efsdp", "reduce_scatter"):
        assert real[key] == plan[key]
    calls, payload = plan["ep", "all_to_all"]
    sizes = 2  # each layer says first how many rows will come
    assert real["ep", "all_to_all"][0] == calls + sizes
    assert real["ep", "all_to_all"][1] == pytest.approx(payload, rel=0.5)  # planned for rows evenly spread


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stage", [0, 7, 15])
def test_405b_on_16384_ranks(stage):
    """The layout of Llama 3 (arXiv:2407.21783, table 4); first, middle and last stage. Slow: half a minute each."""
    changes = {"dp_shard": 128, "tp": 8, "pp": 16, "zero": 1, "schedule": "1f1b"}
    rank = stage * 1024 + 5
    real, at = real_traffic("405b", 16_384, rank, changes, 16)
    assert at == stage
    assert planned_traffic("405b", changes, 16_384, stage, 16) == real


def test_links_follow_the_order_of_ranks():
    h100, layout = GPUS["h100-80gb"], Layout(pp=2, dp_replicate=2, dp_shard=4, cp=2, tp=4)
    assert link(layout, "tp", h100)[:3] == ("node", 4, 1)
    assert link(layout, "cp", h100)[:3] == ("node", 2, 1)
    assert link(layout, "fsdp", h100)[:3] == ("network", 8, 4)
    assert link(layout, "dp_replicate", h100)[:3] == ("network", 2, 2)
    assert link(layout, "fsdp", h100).bandwidth == pytest.approx(2 * 50e9 * 0.82)
    assert link(layout, "fsdp", GPUS["gb200-186gb"])[:3] == ("node", 8, 1)
