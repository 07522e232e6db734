"""Training checkpoints: folders ``step_N`` of safetensors and JSON that are there wholly or not at all.

    step_500/model.safetensors    weights and buffers of the task, by name
             state.safetensors    all other tensors: optimizer, averaged weights, random states
             state.json           the numbers, and where in the tree each tensor belongs

Nothing is pickled. A folder is written beside its place, flushed, and renamed; the one before goes only then.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anemone.checkpoint.atomic import atomic_folder, standing
from anemone.config import Tree
from anemone.errors import ArchiveError

log = logging.getLogger("anemone.training")

LAYOUT = 1
"""Of state.json; another number is refused."""


class Checkpoint(NamedTuple):
    """What a run goes on from."""

    model: dict[str, Tensor]
    """Weights and buffers of the task."""

    state: Tree
    """A tree of numbers, strings and tensors."""


def write_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> None:
    """Writes ``folder/step_N``; when this returns, it is on disk."""
    tensors: dict[str, Tensor] = {}
    tree = {"layout": LAYOUT, "step": step, **_pack(checkpoint.state, tensors, "")}
    with atomic_folder(folder / f"step_{step}") as draft:
        save_file({name: _settled(tensor) for name, tensor in checkpoint.model.items()}, draft / "model.safetensors")
        save_file(tensors, draft / "state.safetensors")
        (draft / "state.json").write_text(json.dumps(tree, indent=1), "utf-8")


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint.

    Raises:
        ArchiveError: a file is missing, broken, or of another layout.
    """
    try:
        model, tensors = load_file(path / "model.safetensors"), load_file(path / "state.safetensors")
        tree = json.loads((path / "state.json").read_text("utf-8"))
        if tree["layout"] != LAYOUT:
            raise ArchiveError(f"`{path}` has layout {tree['layout']}, but this version reads {LAYOUT}.")
        return Checkpoint(model, _unpack(tree, {name: tensor.clone() for name, tensor in tensors.items()}))
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ArchiveError(f"`{path}` is not a training checkpoint, or a broken one: {error}") from error


def newest_checkpoint(folder: Path) -> tuple[int, Checkpoint] | None:
    """Reads the newest checkpoint of a run that can be read, with its step; None if there is none.

    A process killed in the middle of a save leaves the one before; a broken disk may leave a broken one, which is
    passed over with a warning.
    """
    for step in sorted(checkpoints(folder), reverse=True):
        try:
            return step, read_checkpoint(standing(folder / f"step_{step}"))
        except ArchiveError as error:
            log.warning("%s The one before is tried.", error)
    return None


def checkpoints(folder: Path) -> set[int]:
    """Steps of the checkpoints that are whole."""
    names = (re.fullmatch(r"step_(\d+)(\.old)?", path.name) for path in folder.glob("step_*"))
    return {int(match[1]) for match in names if match}


def prune(folder: Path, keep: set[int]) -> None:
    """Removes the other checkpoints, and what killed processes left."""
    for step in checkpoints(folder) - keep:
        (folder / f"step_{step}").rename(folder / f"step_{step}.tmp")
    for draft in folder.glob("step_*.tmp"):
        shutil.rmtree(draft)


def random_states() -> Tree:
    """States of torch's generators. No forward of a run depends on them; code outside of it may."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_states(states: Mapping[str, Any]) -> None:
    """Puts the generators back; those of GPUs that are not here are left out."""
    torch.set_rng_state(states["cpu"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)


def _settled(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares memory with none."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _pack(tree: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """The tree as JSON takes it; tensors go into the table and leave their name."""
    if isinstance(tree, Tensor):
        tensors[path] = _settled(tree)
        return {"tensor": path}
    if isinstance(tree, Mapping):
        return {str(key): _pack(value, tensors, f"{path}.{key}".lstrip(".")) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_pack(value, tensors, f"{path}.{i}") for i, value in enumerate(tree)]
    return tree


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree with its tensors; keys of digits, such as an optimizer's, become numbers again."""
    if isinstance(tree, dict):
        if set(tree) == {"tensor"}:
            return tensors[tree["tensor"]]
        return {int(key) if key.isdecimal() else key: _unpack(value, tensors) for key, value in tree.items()}
    return [_unpack(value, tensors) for value in tree] if isinstance(tree, list) else tree
