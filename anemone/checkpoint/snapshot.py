"""A folder as Hugging Face lays it out: JSON files of settings, and tensors in safetensors, in one file or in many.

Nothing but JSON, text and safetensors is read. Files may be links, as in the cache of their library.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor

from anemone.checkpoint.tensors import open_safetensors, refuse_names
from anemone.errors import ArchiveError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MAX_JSON = 64 << 20  # bytes
COUNTER = ".num_batches_tracked"  # a whole number that batch normalisation keeps
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


class Snapshot(Mapping[str, Tensor]):
    """The tensors of a folder, by their names there, mapped into memory when they are asked for; and its other files.

    Args:
        folder: with safetensors, in one file or in many with an index.

    Raises:
        ArchiveError: there are no safetensors, or the index is broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, dict[str, Tensor]] = {}
        self.files = self._index()
        """Tensor -> the file it is in."""

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __getitem__(self, name: str) -> Tensor:
        file = self.files[name]
        tensor = self._tensors(file).get(name)
        if tensor is None:
            raise ArchiveError(f"`{self.folder / file}` lacks `{name}`, which `{INDEX}` says is there.")
        return tensor

    def where(self, name: str) -> Path:
        """The file that a tensor is in."""
        return self.folder / self.files[name]

    def take(self, names: Mapping[str, str], passed_over: Sequence[str] = ()) -> dict[str, Tensor]:
        """Returns tensors by our names.

        Args:
            names: our name of each tensor -> its name here.
            passed_over: patterns of names of tensors that may stand here and are not asked for.

        Raises:
            ArchiveError: a tensor is missing, or is neither asked for nor passed over; or its numbers are whole.
        """
        needed = set(names.values())
        missing = [theirs for theirs in names.values() if theirs not in self.files]
        unknown = [n for n in self.files if n not in needed and not any(fnmatchcase(n, p) for p in passed_over)]
        refuse_names(f"`{self.folder}`", missing=missing, unknown=unknown, asker=f"`{CONFIG}` does")
        taken = {ours: self[theirs] for ours, theirs in names.items()}
        for ours, tensor in taken.items():
            if not tensor.is_floating_point() and not ours.endswith(COUNTER):
                raise ArchiveError(f"`{names[ours]}` must hold floating numbers, but is {tensor.dtype} instead.")
        return taken

    def json(self, name: str) -> dict[str, Any]:
        """Returns the tree of a JSON file; empty where there is no such file."""
        return read_json(self.folder / name) if (self.folder / name).is_file() else {}

    def text(self, name: str) -> str:
        """Returns a text file; empty where there is no such file."""
        path = self.folder / name
        return _text(path) if path.is_file() else ""

    def _tensors(self, file: str) -> dict[str, Tensor]:
        if file not in self._open:
            self._open[file] = open_safetensors(self.folder / file)
        return self._open[file]

    def _index(self) -> dict[str, str]:
        """File of each tensor."""
        folder = self.folder
        if not (folder / INDEX).is_file():
            if not (folder / WEIGHTS).is_file():
                pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
                said = f"`{folder}` must hold `{WEIGHTS}` or `{INDEX}`, but holds neither."
                hint = (
                    f" `{pickles[0]}` is not read, as reading it can run code: load it with `transformers`, if you "
                    "trust it, and write it by `model.save_pretrained(folder, safe_serialization=True)`."
                    if pickles
                    else ""
                )
                raise ArchiveError(said + hint)
            return dict.fromkeys(self._tensors(WEIGHTS), WEIGHTS)
        files = read_json(folder / INDEX).get("weight_map")
        beside = isinstance(files, dict) and all(isinstance(f, str) and Path(f).name == f for f in files.values())
        if not isinstance(files, dict) or not beside:
            raise ArchiveError(f"`{folder / INDEX}` must have a `weight_map` to names of files beside it.")
        return dict(files)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the tree of a JSON file.

    Raises:
        ArchiveError: it cannot be read, is too large, or is no mapping.
    """
    try:
        tree = json.loads(_text(path))
        if not isinstance(tree, dict):
            raise ValueError("it is no mapping")
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"`{path}` cannot be read: {error}.") from error
    return tree


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it has more than {MAX_JSON} bytes")
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ArchiveError(f"`{path}` cannot be read: {error}.") from error
