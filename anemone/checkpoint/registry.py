"""Pretrained models by name: shipped with the package, on disk, or downloaded once and checked.

The table is ``assets/registry.yaml``; the file that ``$ANEMONE_REGISTRY`` names adds to it. Downloads go to
``$ANEMONE_CACHE`` (default ``~/.cache/anemone``): to a ``.part`` that a later try goes on with, and to their place only
once length and SHA-256 are right. What lies there is used without a network; ``ANEMONE_OFFLINE=1`` never asks for one.
Imports no torch.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from anemone.cache import cache_folder
from anemone.checkpoint.atomic import standing
from anemone.checkpoint.download import download, offline
from anemone.config import decode, must, nearest
from anemone.errors import ArchiveError, ConfigError

ASSETS = Path(__file__).parents[1] / "assets"
TABLE = ASSETS / "registry.yaml"

LOCATIONS = {  # origin -> rule, pattern
    "shipped": ("a path below assets/", r"(\w[\w.-]*/)*\w[\w.-]*"),
    "file": ("a path", ".+"),
    "http": ("http:// or https://, a host, and a path that ends in a file's name", r"https?://[^/]+/(.*/)?\w[^/?#]*"),
    "hub": ("owner/repository@revision:filename", r"[\w.-]+/[\w.-]+@[\w./-]+:\w[\w./-]*"),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A pretrained model."""

    name: str
    """What `resolve` and `anemone.load` take."""

    task: str
    """Kind of its task: recognition, classification."""

    language: tuple[str, ...]
    """Codes of the languages it knows, such as "en"."""

    licence: str
    """Identifier such as "apache-2.0"."""

    size: int
    """Bytes, of a folder those of all its files."""

    sha256: str
    """What `fingerprint` must give."""

    origin: Literal["shipped", "file", "http", "hub"]
    """Where it comes from."""

    location: str
    """Shipped: path below the package's ``assets``. file: a path, beside the registry if relative. http: address.
    hub: owner/repository@revision:filename."""

    description: str = ""
    """One line: what it was trained on, and its honest score."""

    def __post_init__(self) -> None:
        hexadecimal = len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef")
        must(hexadecimal, "sha256", "64 hexadecimal digits in lower case", value=self.sha256)
        must(self.size > 0, "size", "a number of bytes above 0", value=self.size)
        rule, pattern = LOCATIONS[self.origin]
        must(re.fullmatch(pattern, self.location) is not None, "location", rule, value=self.location)


def pretrained() -> list[Entry]:
    """Returns all pretrained models that have a name.

    Raises:
        ConfigError: a registry is broken; names file, entry and field.
    """
    return [entry for entry, _ in _entries().values()]


def resolve(name: str | Path) -> Path:
    """Returns where a model is: a path that exists as it is, else the model of that name, fetched if need be.

    Raises:
        ArchiveError: there is neither; it cannot be fetched; or it is not what the registry promises.
    """
    path = Path(name)
    if standing(path).exists():
        return path
    entries = _entries()
    if str(name) not in entries:
        raise ArchiveError(
            f"`{name}` is neither a file or folder that exists nor a pretrained model.{nearest(str(name), entries)}"
            f" There are: {', '.join(entries) or 'none'}."
        )
    entry, beside = entries[str(name)]
    return {"shipped": _on_disk, "file": _on_disk, "http": _from_http, "hub": _from_hub}[entry.origin](entry, beside)


def fingerprint(path: str | Path) -> tuple[int, str]:
    """Returns size and SHA-256 of a file, or of a folder.

    Those of a folder are the bytes of all its files, and the hash of the lines "sha256  name" for its files in the
    order of their names, as `sha256sum` prints them. Hidden files do not count.
    """
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    shown = {name: fingerprint(files[name]) for name in sorted(files) if not any(n[0] == "." for n in name.split("/"))}
    lines = "".join(f"{digest}  {name}\n" for name, (_, digest) in shown.items())
    return sum(size for size, _ in shown.values()), hashlib.sha256(lines.encode()).hexdigest()


def _entries() -> dict[str, tuple[Entry, Path]]:
    """Name -> entry, and the folder that its relative path begins at."""
    tables = {TABLE: ASSETS}
    if further := os.environ.get("ANEMONE_REGISTRY"):
        tables[Path(further)] = Path(further).absolute().parent
    entries: dict[str, tuple[Entry, Path]] = {}
    for table, beside in tables.items():
        try:
            trees = yaml.safe_load(table.read_text("utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"`{table}` cannot be read as a registry: {error}.") from error
        must(isinstance(trees, dict), str(table), "a mapping from name to entry", value=trees)
        for name, tree in trees.items():
            must(isinstance(tree, dict), f"{table}: {name}", "a group of settings (Entry)", value=tree)
            entries[str(name)] = decode(Entry, {"name": name, **tree}, f"{table}: {name}"), beside
    return entries


def _on_disk(entry: Entry, beside: Path) -> Path:
    path = beside / Path(entry.location).expanduser()
    if not path.exists():
        raise ArchiveError(f"`{entry.name}` should be at `{path}` ({entry.origin}), but nothing is there.")
    _check(entry, path)
    return path


def _from_http(entry: Entry, beside: Path) -> Path:
    target = cache_folder() / "models" / entry.sha256 / entry.location.rpartition("/")[2]
    if not target.exists() or target.stat().st_size != entry.size:
        with _alone(target.parent):
            if not target.exists() or target.stat().st_size != entry.size:
                download(entry.location, target, size=entry.size, sha256=entry.sha256)
    return target


def _from_hub(entry: Entry, beside: Path) -> Path:
    """Fetches through huggingface_hub, into its own cache."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ArchiveError(f"`{entry.name}` is on the Hugging Face Hub: pip install 'anemone[hub]'.") from error
    repository, _, rest = entry.location.partition("@")
    revision, _, filename = rest.partition(":")
    try:
        path = Path(hf_hub_download(repository, filename, revision=revision, local_files_only=offline()))
    except (OSError, ValueError) as error:  # what the library's network, offline and naming errors derive from
        raise ArchiveError(f"`{entry.name}` cannot be fetched from `{entry.location}`: {error}") from error
    _check(entry, path)
    return path


def _check(entry: Entry, path: Path) -> None:
    found = fingerprint(path)
    if found != (entry.size, entry.sha256):
        raise ArchiveError(
            f"`{entry.name}` at `{path}` must have {entry.size} bytes with SHA-256 {entry.sha256},"
            f" but has {found[0]} with {found[1]} instead."
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets one process at a time in; others wait. The system frees the lock of a process that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        if os.name == "posix":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
