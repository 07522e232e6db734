"""Training checkpoints: folders ``step_N`` that are there wholly or not at all, for one process and for many.

    step_500/shard_00000.safetensors    tensors by name: weights, optimizer, averages; a file for each rank that wrote
             index.json                 where each tensor lies
             state.json                 the numbers: steps, place in the data, scale of the loss
             complete.json              sizes and SHA-256 of the files; names the checkpoint as complete

Nothing is pickled. A folder is written beside its place, flushed, and renamed; the one before goes only then. Tensors
have the names of their parameters, whole shapes, and any layout: a run goes on with other ranks than it was saved by.
"""

import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anemone.checkpoint.agree import agree
from anemone.checkpoint.atomic import standing
from anemone.checkpoint.sharded import Group, Piece, ShardWriter
from anemone.checkpoint.shards import Shards, open_shards, refuse_other_formats
from anemone.config import Tree
from anemone.errors import ArchiveError

log = logging.getLogger("anemone.training")

STATE = "state.json"


# --- saving -----------------------------------------------------------------------------------------------------------


class Saver:
    """Writes the checkpoints of a run.

    Args:
        folder: of the checkpoints.
        group: a gloo group of all ranks for this alone; None for one process.
        asynchronous: whether files are written by a thread while training goes on. What a rank is to write is then
            copied to its host's memory first, so a save costs training only this copy.
    """

    def __init__(self, folder: Path, group: Group = None, *, asynchronous: bool = False) -> None:
        self.folder, self.group, self.asynchronous = folder, group, asynchronous
        self._writer = ShardWriter(group)
        self._copies: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._fault: Exception | None = None

    def save(self, step: int, state: Tree, then: Callable[[], object] = lambda: None) -> None:
        """Writes ``folder/step_N``; if not asynchronous, it is on disk when this returns on any rank.

        A save that is still under way is finished first.

        Args:
            step: number of the checkpoint.
            state: a tree of numbers, strings and tensors. Numbers must be the same on all ranks, a tensor of a name
                must be the same on all ranks that have it, or a `DTensor`.
            then: called on the first rank once it is written.

        Raises:
            ArchiveError: on all ranks; this checkpoint, or the one under way, could not be written.
        """
        self.wait()
        numbers, tensors = divided({**state, "step": step})
        files = {STATE: json.dumps(numbers, indent=1).encode("utf-8")}
        pieces = self._writer.share(tensors)
        if self.asynchronous:
            pieces = self._copied(pieces)

        def after(results: list[Any]) -> list[Any]:
            then()
            return results

        def write() -> None:
            path = self.folder / f"step_{step}"
            try:
                self._writer.write(path, pieces, files)
            except ArchiveError as fault:
                raise ArchiveError(f"`{path}` could not be written; the one before stands. {fault}") from fault
            agree(self.group, decide=after)

        if self.asynchronous:
            self._thread = threading.Thread(target=self._try, args=(write,), name="checkpoint")
            self._thread.start()
        else:
            write()

    def wait(self) -> None:
        """Waits for a save that is under way.

        Raises:
            ArchiveError: on all ranks; it could not be written.
        """
        if self._thread:
            self._thread.join()
        self._thread, fault, self._fault = None, self._fault, None
        if fault:
            raise fault

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as fault:
            self._fault = fault

    def _copied(self, pieces: Mapping[str, Piece]) -> dict[str, Piece]:
        """The pieces in the host's memory, which is taken once and used again."""
        copies = {}
        for name, (whole, offset, tensor) in pieces.items():
            copy = self._copies.get(name)
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            copy.copy_(tensor, non_blocking=True)
            copies[name], self._copies[name] = Piece(whole, offset, copy), copy
        if any(p.tensor.is_cuda for p in pieces.values()):
            torch.cuda.synchronize()
        return copies


def prune(folder: Path, keep: Collection[int]) -> None:
    """Removes the other checkpoints, and what killed processes left."""
    for step in checkpoints(folder) - set(keep):
        (folder / f"step_{step}").rename(folder / f"step_{step}.tmp")
    for draft in folder.glob("step_*.tmp"):
        shutil.rmtree(draft)


# --- reading ----------------------------------------------------------------------------------------------------------


class Saved(NamedTuple):
    """A checkpoint that is whole."""

    step: int
    """Of the run."""

    numbers: Tree
    """All of it but the tensors."""

    tensors: Shards
    """Whole tensors by name, read when asked for."""

    def load(
        self, into: Tree, group: Group = None, *, exact: Collection[str] = (), optional: Collection[str] = ()
    ) -> Tree:
        """Fills the tensors of a tree of the same form; returns the saved tree, with these tensors in it.

        Args:
            into: tensors where they are to be, such as `DTensor`s; saved ones that are not in it are left out.
            group: as in `Saver`.
            exact: branches ("model") of which no saved tensor may be left out by all ranks.
            optional: branches of which tensors may be missing in the checkpoint, and are left out.

        Raises:
            ArchiveError: on all ranks; a tensor is missing or left out, or has another shape or kind of number.
        """
        _, tensors = divided(into)
        wanted = {name: t for name, t in tensors.items() if name in self.tensors or not _within(name, optional)}

        def read() -> list[str]:
            self.tensors.read_into(wanted)
            return [name for name in wanted if _within(name, exact)]

        def decide(taken: list[list[str]]) -> list[None]:
            left = {name for name in self.tensors if _within(name, exact)}.difference(*taken)
            if left:
                raise ArchiveError(f"`{min(left)}` of `{self.tensors.path}` is not in the model.")
            return [None] * len(taken)

        agree(group, read, decide)
        return joined(self.numbers, wanted)


def read_checkpoint(path: Path, group: Group = None) -> Saved:
    """Opens one checkpoint and compares its checksums.

    Raises:
        ArchiveError: on all ranks; a file is missing or broken, or of another format.
    """
    agree(group, lambda: refuse_other_formats(path))
    return _opened(path, group)


def _opened(path: Path, group: Group) -> Saved:
    tensors = open_shards(path, group)
    numbers = json.loads(tensors.read(STATE))
    return Saved(numbers.pop("step"), numbers, tensors)


def newest_checkpoint(folder: Path, group: Group = None) -> Saved | None:
    """Opens the newest checkpoint of a run that is whole, the same on all ranks; None if there is none.

    A process killed in the middle of a save leaves the one before; a broken disk may leave a broken one, which is
    passed over with a warning.

    Raises:
        ArchiveError: there are checkpoints, but none is whole, or one is of another format.
    """
    steps: list[int] = agree(group, decide=lambda ranks: [sorted(checkpoints(folder), reverse=True)] * len(ranks))
    for step in steps:
        path = standing(folder / f"step_{step}")
        agree(group, lambda path=path: refuse_other_formats(path))  # type: ignore[misc]
        try:
            return _opened(path, group)
        except ArchiveError as error:
            log.warning("%s The one before is tried.", error)
    if steps:
        raise ArchiveError(f"`{folder}` has no checkpoint that is whole. Remove the folder for the run to start anew.")
    return None


def checkpoints(folder: Path) -> set[int]:
    """Steps of the checkpoints that are complete."""
    names = (re.fullmatch(r"step_(\d+)(\.old)?", path.name) for path in folder.glob("step_*"))
    return {int(match[1]) for match in names if match}


# --- trees ------------------------------------------------------------------------------------------------------------


def divided(tree: Tree) -> tuple[Tree, dict[str, Tensor]]:
    """The numbers of a tree, and its tensors by their path in it: "engine/optimizer/encoder.weight/exp_avg"."""
    numbers: Tree = {}
    tensors: dict[str, Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, Tensor):
            tensors[key] = value
        elif isinstance(value, Mapping):
            rest, inner = divided(dict(value))
            numbers |= {key: rest} if rest or not inner else {}
            tensors |= {f"{key}/{path}": tensor for path, tensor in inner.items()}
        else:
            numbers[key] = value
    return numbers, tensors


def joined(numbers: Tree, tensors: Mapping[str, Tensor]) -> Tree:
    """The tree that `divided` took apart."""
    tree: Tree = json.loads(json.dumps(numbers))
    for path, tensor in tensors.items():
        *outer, name = path.split("/")
        node = tree
        for key in outer:
            node = node.setdefault(key, {})
        node[name] = tensor
    return tree


def _within(path: str, branches: Collection[str]) -> bool:
    return any(path.startswith(f"{branch}/") for branch in branches)


def network(tensors: Shards) -> tuple[dict[str, Tensor], Callable[[str], Tensor]]:
    """The network's tensors in a checkpoint, averaged ones where there are any: stand-ins by name, and what reads one.

    So an archive of a network that no rank holds wholly is written tensor by tensor.
    """
    averages, weights = "engine/average/mean/network.", "model/network."
    names = [name.removeprefix(weights) for name in tensors if name.startswith(weights)]
    source = {name: averages + name if averages + name in tensors else weights + name for name in names}
    return {name: tensors.stand_in(source[name]) for name in names}, lambda name: tensors[source[name]]


def random_states() -> Tree:
    """States of torch's generators. No forward of a run depends on them; code outside of it may."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), **{f"cuda{device}": state for device, state in enumerate(cuda)}}


def set_random_states(states: Mapping[str, Any]) -> None:
    """Puts the generators back; those of GPUs that are not here are left out."""
    torch.set_rng_state(states["cpu"])
    for device in range(torch.cuda.device_count()):
        if f"cuda{device}" in states:
            torch.cuda.set_rng_state(states[f"cuda{device}"], device)
