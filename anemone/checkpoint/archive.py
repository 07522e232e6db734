"""Model archives: everything a trained model needs, and nothing that could run.

A folder, or one file that is a plain tar of the same members, aligned so that weights are mapped where they lie::

    README.md              the model card, with a front matter for the Hugging Face Hub
    config.yaml            the decoded settings that rebuild the model
    files/...              what these need beside values: tokenizers, dictionaries
    weights.safetensors    the parameters and buffers

The same content gives the same bytes. A write happens wholly or not at all.
"""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import yaml
from torch import Tensor

from anemone.checkpoint.atomic import atomic_file, atomic_folder, standing
from anemone.checkpoint.card import model_card
from anemone.checkpoint.members import Members, clean_name, open_members
from anemone.checkpoint.safe import load_tree
from anemone.checkpoint.tensors import read_safetensors, safetensors_size, write_safetensors
from anemone.config import refuse_code
from anemone.errors import ArchiveError, ConfigError

CARD = "README.md"
CONFIG = "config.yaml"
WEIGHTS = "weights.safetensors"
FILES = "files/"
SUFFIX = ".anemone"
NEMO_CONFIG = "model_config.yaml"
HUGGINGFACE_CONFIG = "config.json"
FOREIGN = {".nemo", ".tar", ".gz", ".tgz", ".zip", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".yaml"}


Write = Callable[[BinaryIO], object]
Read = Callable[[str], Tensor]


class Archive(NamedTuple):
    """A model at rest."""

    config: dict[str, Any]
    """Plain tree of settings."""

    tensors: dict[str, Tensor]
    """Parameters and buffers by name. After `read_archive` they lie in the archive's own bytes, mapped into memory."""

    files: dict[str, bytes]
    """Further files by name, without the folder."""

    card: str = ""
    """Markdown with a front matter; `write_archive` makes one of the config where it is empty."""


def read_archive(path: str | Path) -> Archive:
    """Reads a model archive of ours, a ``.nemo`` or a folder of Hugging Face's; told apart by what they hold.

    Raises:
        ArchiveError: it does not exist, lacks a member, is broken, or is hostile.
    """
    if (Path(path) / HUGGINGFACE_CONFIG).is_file() and not (Path(path) / CONFIG).exists():
        from anemone.checkpoint.huggingface_speech import read_huggingface_speech

        return read_huggingface_speech(path)
    with open_members(path) as members:
        if NEMO_CONFIG not in members.names:
            return _read(members)
    from anemone.checkpoint.nemo import read_nemo

    return read_nemo(path)


def _read(members: Members) -> Archive:
    config = load_tree(members.read(CONFIG), members.where(CONFIG))
    _refuse_code(config, members.where(CONFIG))
    return Archive(
        config=config,
        tensors=read_safetensors(members.map(WEIGHTS), members.where(WEIGHTS)),
        files={name.removeprefix(FILES): members.read(name) for name in members.names if name.startswith(FILES)},
        card=members.read(CARD).decode("utf-8", "replace") if CARD in members.names else "",
    )


def write_archive(path: str | Path, archive: Archive, read: Read | None = None) -> None:
    """Writes an archive: one file if ``path`` ends in ``.anemone``, else a folder. An older archive there is replaced.

    Args:
        path: where to.
        archive: what to write.
        read: gives a tensor by name when its turn comes, where those of the archive are stand-ins of types and shapes.

    Raises:
        ArchiveError: something else stands there, or the archive could not be read back.
    """
    path = Path(path)
    _check_place(path)
    members = _members(path, archive, read)
    if path.suffix == SUFFIX:
        with atomic_file(path) as draft, draft.open("wb") as file:
            for name, (size, write) in members.items():
                _append(file, name, size, write)
            file.write(bytes(2 * tarfile.BLOCKSIZE))
        return
    with atomic_folder(path) as folder:
        for name, (_, write) in members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("wb") as file:
                write(file)


def _check_place(path: Path) -> None:
    """Refuses to write over what is no archive."""
    if path.suffix in FOREIGN:
        raise ArchiveError(f"`{path}` must be a folder or end in `{SUFFIX}`, but ends in {path.suffix!r} instead.")
    there = standing(path)
    if there.is_dir() and (path.suffix == SUFFIX or not _ours(there)):
        raise ArchiveError(f"`{path}` must be a new folder or an archive, but is a folder with other content instead.")
    if there.is_file() and path.suffix != SUFFIX:
        raise ArchiveError(f"`{path}` must be a new folder or an archive, but is a file instead.")


def _ours(folder: Path) -> bool:
    names = {file.name for file in folder.iterdir()}
    return not names or {CONFIG, WEIGHTS} <= names <= {CONFIG, WEIGHTS, CARD, FILES.rstrip("/")}


def _members(path: Path, archive: Archive, read: Read | None) -> dict[str, tuple[int, Write]]:
    """Name -> size and writer, in the order in which a newcomer should meet them."""
    plain = {
        CARD: (archive.card or model_card(path.stem, archive.config)).encode("utf-8"),
        CONFIG: _dump(archive.config, str(path)),
        **{FILES + clean_name(name, path): archive.files[name] for name in sorted(archive.files)},
    }
    members = {name: (len(data), _writer(data)) for name, data in plain.items()}
    members[WEIGHTS] = safetensors_size(archive.tensors), lambda file: write_safetensors(file, archive.tensors, read)
    return members


def _writer(data: bytes) -> Write:
    return lambda file: file.write(data)


def _append(file: BinaryIO, name: str, size: int, write: Write) -> None:
    """Adds a member to a tar, with no trace of when and by whom."""
    member = tarfile.TarInfo(name)
    member.size = size
    file.write(member.tobuf(tarfile.PAX_FORMAT))
    start = file.tell()
    write(file)
    assert file.tell() - start == size
    file.write(bytes(-size % tarfile.BLOCKSIZE))


class PlainDumper(yaml.SafeDumper):
    """Writes a value anew wherever it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whether a value is written out again: always."""
        return True


def _dump(config: dict[str, Any], where: str) -> bytes:
    """YAML that reads back as the same tree."""
    _refuse_code(config, where)
    try:
        text = yaml.dump(config, Dumper=PlainDumper, sort_keys=False, allow_unicode=True, width=120)
    except yaml.YAMLError as error:
        raise ArchiveError(f"`{where}` cannot be written: its config must hold plain values: {error}.") from error
    data = text.encode("utf-8")
    if load_tree(data, where) != config:
        raise ArchiveError(f"`{where}` cannot be written: its config would not read back the same (lists, no tuples).")
    return data


def _refuse_code(config: dict[str, Any], where: str) -> None:
    try:
        refuse_code(config)
    except ConfigError as error:
        raise ArchiveError(f"`{where}` is refused: {error}") from error
