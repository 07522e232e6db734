"""Hugging Face's models of speech: a folder of ``config.json``, safetensors and a tokenizer's files, as an archive.

The family is told by ``model_type``; its table translates settings and names of tensors, and refuses by name what has
no counterpart here. Llamas are read by `anemone.checkpoint.huggingface`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anemone.checkpoint.archive import Archive
from anemone.checkpoint.names import parakeet, wav2vec2, whisper
from anemone.checkpoint.names.llama import FAMILIES as TEXT
from anemone.checkpoint.snapshot import CONFIG, Snapshot, read_json
from anemone.config import nearest
from anemone.errors import AnemoneError, ArchiveError

FAMILIES: dict[str, Callable[[Snapshot, Mapping[str, Any]], Archive]] = {
    "parakeet_ctc": parakeet.read_ctc,
    "parakeet_rnnt": parakeet.read_transducer,
    "parakeet_tdt": parakeet.read_transducer,
    "wav2vec2": wav2vec2.read,
    "whisper": whisper.read,
}


def holds_speech(folder: Path) -> bool:
    """Whether a folder is one of Hugging Face's with a model of speech that is read here."""
    return (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("model_type") in FAMILIES


def read_huggingface_speech(folder: str | Path) -> Archive:
    """Reads a model of speech in Hugging Face's layout: our settings, our names of tensors, the tokenizer's files.

    Args:
        folder: such as a snapshot of a repository of theirs.

    Raises:
        ArchiveError: something is missing or broken, or has no counterpart here; names it.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    family = config.get("model_type")
    if family not in FAMILIES:
        hint = " Turn it into an archive: `anemone convert FOLDER NAME.anemone`." if family in TEXT else ""
        advice = hint or nearest(str(family), FAMILIES)
        raise ArchiveError(
            f"`{folder / CONFIG}: model_type` must be one of {sorted(FAMILIES)}, but is {family!r} instead.{advice}"
        )
    try:
        return FAMILIES[family](Snapshot(folder), config)
    except AnemoneError as error:
        raise ArchiveError(f"`{folder}`: {error}") from error
