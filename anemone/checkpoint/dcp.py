"""The folders of `anemone.checkpoint.sharded` as a storage of torch's own distributed checkpoints.

`torch.distributed.checkpoint.save` writes through `SafetensorsWriter` what `open_shards` reads, and
`torch.distributed.checkpoint.load` reads through `SafetensorsReader` what a run has saved, so that programs which know
nothing of anemone can use both. Runs themselves do without `torch.distributed.checkpoint`: it sends plans and results
between ranks as pickles.

    torch.distributed.checkpoint.load(state, storage_reader=SafetensorsReader("runs/mine/checkpoints/step_500"))
"""

import dataclasses
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Size, Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from anemone.checkpoint.atomic import atomic_folder
from anemone.checkpoint.sharded import NAMES, seal, shard_name, write_shard
from anemone.checkpoint.shards import Shards
from anemone.checkpoint.tensors import DTYPES
from anemone.errors import ArchiveError


class SafetensorsWriter(StorageWriter):
    """Writes a folder that is there wholly or not at all. A state may hold tensors only.

    Args:
        path: of the folder; what was there is replaced.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self._stack = ExitStack()

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Turns to another folder."""
        self.path = self.path if checkpoint_id is None else Path(checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool) -> None:
        """Does nothing."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Leaves the plan as it is.

        Raises:
            ArchiveError: something is no tensor.
        """
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                raise ArchiveError(f"`{item.index.fqn}` must be a tensor: everything else would have to be pickled.")
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Makes the folder to be filled, and numbers the files."""
        self._stack.enter_context(atomic_folder(self.path))
        return [dataclasses.replace(plan, storage_data=rank) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes the file of this rank."""
        tensors: dict[str, Tensor] = {}
        for item in plan.items:
            if item.index.fqn in tensors:
                raise ArchiveError(f"`{item.index.fqn}` must lie in one block on each rank, but lies in several.")
            data = planner.resolve_data(item)
            assert isinstance(data, Tensor)
            tensors[item.index.fqn] = data
        draft, rank = self.path.with_name(f"{self.path.name}.tmp"), plan.storage_data
        entry = write_shard(draft / shard_name(rank), tensors) if tensors else {}
        done: Future[list[WriteResult]] = Future()
        done.set_result([WriteResult(item.index, entry["bytes"], (rank, entry)) for item in plan.items])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Writes the index and the marker, and puts the folder in its place."""
        index: dict[str, Any] = {}
        chunks: dict[MetadataIndex, ChunkStorageMetadata] = {}
        for name, whole in metadata.state_dict_metadata.items():
            assert isinstance(whole, TensorStorageMetadata)
            index[name] = {"dtype": NAMES[whole.properties.dtype], "shape": list(whole.size), "pieces": []}
            chunks |= {MetadataIndex(name, chunk.offsets): chunk for chunk in whole.chunks}
        sums: dict[str, Any] = {}
        for result in (result for of_rank in results for result in of_rank):
            rank, entry = result.storage_data
            chunk = chunks[result.index]
            piece = {"file": rank, "offset": list(chunk.offsets), "shape": list(chunk.sizes)}
            index[result.index.fqn]["pieces"].append(piece)
            sums[shard_name(rank)] = entry
        seal(self.path.with_name(f"{self.path.name}.tmp"), index=index, sums=sums)
        self._stack.close()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether a folder can be written here."""
        return Path(checkpoint_id).name != ""


class SafetensorsReader(StorageReader):
    """Reads a folder, whatever layout it was saved by.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Turns to another folder."""
        self.path = self.path if checkpoint_id is None else Path(checkpoint_id)

    def read_metadata(self) -> Metadata:
        """Types, shapes and pieces of all tensors."""
        tensors: dict[str, Any] = {}
        for name, entry in Shards(self.path).index.items():
            chunks = [ChunkStorageMetadata(Size(piece["offset"]), Size(piece["shape"])) for piece in entry["pieces"]]
            properties = TensorProperties(DTYPES[entry["dtype"]])
            tensors[name] = TensorStorageMetadata(properties, Size(entry["shape"]), chunks)
        return Metadata(tensors)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool) -> None:
        """Does nothing."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Leaves the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Leaves the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copies the blocks that the plan asks for."""
        shards = Shards(self.path)
        for item in plan.items:
            stored = shards.stored(item.storage_index.fqn, list(item.storage_index.offset or ()))
            block = stored[tuple(slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True))]
            target = planner.resolve_tensor(item).detach()
            target.copy_(block)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether a folder is there."""
        return Path(checkpoint_id).is_dir()
