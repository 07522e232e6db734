import re

import pytest
import torch.distributed as dist

from anemone.config import decode
from anemone.errors import ConfigError
from anemone.parallel.mesh import AXES, REFUSALS, VIEWS, Mesh, ParallelConfig
from anemone.parallel.processes import run_ranks

WRONG = {
    "ep": ({"ep": 2}, 4),
    "zero": ({"pp": 2, "dp_shard": 2, "schedule": "zbv"}, 4),
    "compile": ({"pp": 2, "schedule": "dualpipev", "compile": True}, 2),
    "async_tp": ({"tp": 2, "async_tp": True}, 2),
    "stages_per_rank": ({"pp": 2, "stages_per_rank": 2}, 2),
}


def test_what_no_degree_takes_of_the_processes_is_copies():
    assert ParallelConfig(tp=2).resolve(8).dp_replicate == 4
    assert ParallelConfig(dp_shard=2, cp=2, tp=2).resolve(8).dp_replicate == 1


@pytest.mark.parametrize("degrees", [{"tp": 3}, {"pp": 16}, {"dp_replicate": 3}, {"dp_replicate": 8, "tp": 2}])
def test_degrees_must_make_up_the_processes(degrees):
    with pytest.raises(ConfigError, match=r"`parallel.*8 processes.*dp_shard \* cp \* tp \* pp = "):
        ParallelConfig(**degrees).resolve(8)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.setting)
def test_layouts_known_not_to_work_are_refused_with_the_reason(refusal):
    settings, world = WRONG[refusal.setting]
    with pytest.raises(ConfigError, match=re.escape(f"`parallel.{refusal.setting}` must be {refusal.rule}")):
        ParallelConfig(**settings).resolve(world)


def test_refusals_look_at_nothing_that_is_not_used():
    ParallelConfig(dp_shard=4, schedule="zbv", zero=3).resolve(4)
    ParallelConfig(pp=4, schedule="zbv", zero=3).resolve(4)


def test_settings_decode_from_a_plain_tree():
    config = decode(ParallelConfig, {"tp": 2, "recompute": "full", "cp_method": "ulysses"})
    assert config.tp == 2 and type(config.recompute).__name__ == "FullConfig"


@pytest.mark.parametrize("name", ["tp", "ep", "dp_shard"])
def test_degrees_are_at_least_1(name):
    with pytest.raises(ConfigError, match=f"`{name}` must be 1 or more"):
        ParallelConfig(**{name: 0})


def test_alone_there_are_no_axes():
    mesh = Mesh(ParallelConfig())
    assert all(mesh.axis(name) is None and mesh.size(name) == 1 and mesh.rank(name) == 0 for name in (*AXES, *VIEWS))
    assert (mesh.data_rank, mesh.data_world) == (0, 1)


def test_overlapped_tensor_parallelism_needs_gpus():
    config = ParallelConfig(async_tp=True, tp=2, compile=True)
    with pytest.raises(ConfigError, match=r"parallel.async_tp` must be false on a CPU"):
        run_ranks(2, mesh_of, config)


def mesh_of(rank, config):
    Mesh(config)


def places(rank, config):
    mesh = Mesh(config)
    names = (*AXES, *VIEWS, "ep", "efsdp")
    groups = {
        name: dist.get_process_group_ranks(axis.get_group()) for name in names if (axis := mesh.axis(name)) is not None
    }
    return {name: mesh.rank(name) for name in names}, groups, mesh.over("dp_replicate", "fsdp").shape


def test_ranks_are_counted_with_tp_innermost_and_views_join_axes():
    results = run_ranks(8, places, ParallelConfig(dp_shard=2, tp=2, ep=2))
    for rank, (at, groups, shape) in enumerate(results):
        assert (at["tp"], at["dp_shard"], at["dp_replicate"]) == (rank % 2, rank // 2 % 2, rank // 4)
        assert groups["tp"] == [rank // 2 * 2, rank // 2 * 2 + 1]  # neighbours: of one machine
        assert groups["data"] == groups["loss"] == [rank % 2 + 2 * i for i in range(4)]
        assert groups["ep"] == groups["fsdp"] == [rank // 4 * 4 + rank % 2 + 2 * i for i in range(2)]
        assert shape == (2, 2) and "cp" not in groups and "efsdp" not in groups


def test_contexts_read_the_same_data_and_shard_the_weights():
    for rank, (at, groups, _) in enumerate(run_ranks(8, places, ParallelConfig(pp=2, cp=2, ep=2))):
        assert (at["pp"], at["dp_replicate"], at["cp"], at["data"]) == (
            rank // 4,
            rank // 2 % 2,
            rank % 2,
            rank // 2 % 2,
        )
        assert groups["fsdp"] == groups["cp"] == groups["ep"] == [rank // 2 * 2, rank // 2 * 2 + 1]
        assert len(groups["loss"]) == 4 and len(groups["data"]) == 2
