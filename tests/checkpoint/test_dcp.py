"""torch.distributed.checkpoint writes and reads the same folders."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.tensor import DTensor

from anemone.checkpoint.dcp import SafetensorsReader, SafetensorsWriter
from anemone.checkpoint.shards import open_shards
from anemone.errors import ArchiveError
from anemone.testing import run_ranks
from tests.checkpoint.layouts import equal, group_of_all, laid_out, save, save_alone, whole


def tensors_with_values():
    return {name: tensor for name, tensor in whole().items() if tensor.numel()}


def dcp_save(rank, folder, layout):
    tensors = laid_out(layout, tensors_with_values())
    dcp.save(tensors, storage_writer=SafetensorsWriter(folder / "a"), process_group=group_of_all())
    return sorted(path.name for path in folder.iterdir())


def dcp_load(rank, folder, layout):
    tensors = laid_out(layout, {name: torch.zeros_like(t) for name, t in tensors_with_values().items()})
    dcp.load(tensors, storage_reader=SafetensorsReader(folder), process_group=group_of_all())
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}


def test_a_folder_that_dcp_writes_is_like_ours(tmp_path):
    assert run_ranks(4, dcp_save, tmp_path, "hybrid") == [["a"]] * 4
    equal(dict(open_shards(tmp_path / "a")), tensors_with_values())
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == 4


def test_dcp_reads_our_folders_on_another_mesh(tmp_path):
    run_ranks(4, save, tmp_path, "dp4")
    for found in run_ranks(3, dcp_load, tmp_path / "step_1", "three"):
        equal(found, tensors_with_values())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_one_process_reads_and_writes_without_a_group(tmp_path):
    save_alone(tmp_path / "a", tensors_with_values())
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors_with_values().items()}
    dcp.load(found, storage_reader=SafetensorsReader(tmp_path / "a"), no_dist=True)
    equal(found, tensors_with_values())
    dcp.save(found, storage_writer=SafetensorsWriter(tmp_path / "b"), no_dist=True)
    equal(dict(open_shards(tmp_path / "b")), tensors_with_values())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_what_would_be_pickled_is_refused(tmp_path):
    with pytest.raises(
        CheckpointException, match=r"`number` must be a tensor: everything else would have to be pickled"
    ) as told:
        dcp.save({"number": 3}, storage_writer=SafetensorsWriter(tmp_path / "a"), no_dist=True)
    assert any(isinstance(error, ArchiveError) for error, _ in told.value.failures.values())
    assert not list(tmp_path.iterdir())
