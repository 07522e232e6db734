"""Models from one format to another, tensor by tensor: archives, runs and their checkpoints, Hugging Face's folders.

A format has an entry in `READERS`, `WRITERS`, or both; all read into and write from `Model`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from torch import Tensor

from anemone import tasks
from anemone.checkpoint.archive import SUFFIX, Archive, Read, read_archive, write_archive
from anemone.checkpoint.fit import at_most, check_fit, load_tensors_into
from anemone.checkpoint.huggingface import FLOATS, read_huggingface, write_huggingface
from anemone.checkpoint.huggingface_speech import holds_speech
from anemone.checkpoint.registry import resolve
from anemone.checkpoint.sharded import COMPLETE
from anemone.checkpoint.snapshot import CONFIG
from anemone.config import EMPTY, Tree, decode, must
from anemone.errors import AnemoneError, ArchiveError, ConfigError
from anemone.models.text.llama import Llama
from anemone.tasks import adapting
from anemone.tasks.description import describe
from anemone.tasks.language_modelling import LanguageModellingConfig
from anemone.tasks.nemo import save_nemo
from anemone.tasks.task import Task
from anemone.training.resume import network, newest_checkpoint, read_checkpoint

TOKENIZER = "tokenizer.model"
"""Of SentencePiece, in Hugging Face's folders and in archives."""

NEMO = ".nemo"
UNREAD = ("tokenizer.json", "tekken.json", "vocab.json")
"""Files of tokenizers that are not read."""

PARTS = ("task", "model", "features", "loss", "decoding")


class Model(NamedTuple):
    """A model at rest."""

    config: Tree
    """Of the task, as `anemone.tasks.rebuild` takes it."""

    tensors: Mapping[str, Tensor]
    """Mapped into memory, or stand-ins of types and shapes."""

    read: Read
    """Gives a tensor by name."""

    files: Mapping[str, bytes] = EMPTY
    """Of the tokenizer."""

    card: str = ""
    """Of an archive."""


def convert(
    source: str | Path,
    target: str | Path,
    *,
    tokenizer: str = "",
    dtype: torch.dtype | None = None,
    merge: bool = False,
) -> Task:
    """Writes a model in another format; returns its task, without weights.

    Args:
        source: an archive, the name of a pretrained model, a run or one of its checkpoints, or a folder in Hugging
            Face's format.
        target: an archive if it ends in ``.anemone``, one of NeMo's if in ``.nemo``; else a folder in Hugging Face's
            format.
        tokenizer: of a folder of Hugging Face's that has none that is read: "bytes", or a SentencePiece model's path.
        dtype: of what is written for others; that of the source by default.
        merge: whether low-rank changes become part of the weights.

    Raises:
        ArchiveError: the source is missing, broken, or of a kind that is not read; or something stands at the target.
        ConfigError: the target's format cannot hold it, or an option says nothing here.
    """
    target = Path(target)
    theirs = target.suffix not in (SUFFIX, NEMO)
    must(theirs or dtype is None, "--dtype", f"left out for `{target}`: archives keep the types they get", value=dtype)
    model = opened(source, tokenizer)
    model = merged(model) if merge else model
    has = theirs and "adapters" in model.config
    must(not has, "--merge", "given, as no other format holds adapters, and bottlenecks cannot be merged", value=merge)
    try:
        with at_most(sum(tensor.numel() for tensor in model.tensors.values())), torch.device("meta"):
            task = tasks.rebuild(model.config, model.files)
        check_fit(task.network, model.tensors)
    except AnemoneError as error:
        raise ArchiveError(f"`{source}` cannot be used: {error}") from error
    if target.suffix == NEMO:
        save_nemo(task, target, {name: model.read(name) for name in model.tensors})
    elif theirs:
        _to_huggingface(task, model, target, dtype)
    else:
        card = model.card or describe(task, target.stem, {"converted_from": Path(source).name})
        stored = Archive(task.config_tree(), dict(model.tensors), task.files(), card)
        write_archive(target, stored, model.read)
    return task


def merged(model: Model) -> Model:
    """The model with its low-rank changes in its weights, all of it in memory.

    Raises:
        ConfigError: it has none.
    """
    must("adapters" in model.config, "--merge", "left out for a model without adapters", value=True)
    task = tasks.rebuild(model.config, model.files)
    load_tensors_into(task.network, {name: model.read(name) for name in model.tensors})
    adapting.merge(task)
    tensors = task.network.state_dict()
    return Model(task.config_tree(), tensors, tensors.__getitem__, model.files)


def opened(source: str | Path, tokenizer: str = "") -> Model:
    """Opens a model of any format that is read; arguments and errors are those of `convert`."""
    path = Path(source)
    found = (reader for mark, reader in READERS.items() if (path / mark).exists())
    reader = _from_archive if holds_speech(path) else next(found, _from_archive)
    asks = reader is _from_huggingface
    must(asks or not tokenizer, "--tokenizer", f"left out for `{source}`, which has its own", value=tokenizer)
    return reader(path, tokenizer)


# --- reading ----------------------------------------------------------------------------------------------------------


def _from_archive(path: Path, _: str) -> Model:
    found = resolve(path)
    archive = adapting.on_base(read_archive(found), found)
    return Model(archive.config, archive.tensors, archive.tensors.__getitem__, archive.files, archive.card)


def _from_run(path: Path, _: str) -> Model:
    """The newest checkpoint of a run."""
    saved = newest_checkpoint(path / "checkpoints")
    if saved is None:
        raise ArchiveError(f"`{path}` must be a run that has been saved, but has no checkpoint yet.")
    return _of_run(path, *network(saved.tensors))


def _from_checkpoint(path: Path, _: str) -> Model:
    """A checkpoint that lies in its run."""
    return _of_run(path.absolute().parents[1], *network(read_checkpoint(path).tensors))


def _of_run(folder: Path, tensors: dict[str, Tensor], read: Read) -> Model:
    if not (folder / "config.yaml").is_file():
        raise ArchiveError(f"`{folder}` must be the folder of a run, with its `config.yaml`, which is missing.")
    tree = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    config = {name: tree.get(name) for name in PARTS}
    adapt = {name: value for name, value in (tree.get("adapt") or {}).items() if name in ("name", "lora", "adapters")}
    hung = adapt.get("lora") or adapt.get("adapters")
    return Model(config | ({"adapters": [adapt]} if hung else {}), tensors, read)


def _from_huggingface(path: Path, tokenizer: str) -> Model:
    stored = read_huggingface(path)
    kind, files = "bytes" if tokenizer == "bytes" else "sentencepiece", {}
    if kind == "sentencepiece":
        file = Path(tokenizer or path / TOKENIZER)
        if not file.is_file():
            what = f"`--tokenizer` must be bytes or a SentencePiece model, but `{file}` is no file."
            raise ArchiveError(what if tokenizer else f"{no_tokenizer(path)} Give `--tokenizer` one, or bytes.")
        files = {TOKENIZER: file.read_bytes()}
    task = {"kind": "language_modelling", "tokenizer": {"kind": kind}, "vocab_size": stored.vocab_size}
    tensors = {name: stored.stand_in(name) for name in stored}
    return Model({"task": task, "model": stored.model}, tensors, stored.__getitem__, files)


def no_tokenizer(folder: Path) -> str:
    """What to say of a folder without a tokenizer that is read."""
    others = [name for name in UNREAD if (folder / name).is_file()]
    beside = f": its `{others[0]}` is of a kind that is not read" if others else ""
    return f"`{folder}` must hold `{TOKENIZER}`, a SentencePiece model, but does not{beside}."


READERS: dict[str, Callable[[Path, str], Model]] = {
    COMPLETE: _from_checkpoint,
    "checkpoints": _from_run,
    CONFIG: _from_huggingface,
}
"""What a folder of the format holds -> what reads it; anything else is an archive."""


# --- writing ----------------------------------------------------------------------------------------------------------


def _to_huggingface(task: Task, model: Model, path: Path, dtype: torch.dtype | None) -> None:
    if path.suffix in (".onnx", ".safetensors", ".bin", ".pt"):
        raise ConfigError(f"`{path}` must end in `{SUFFIX}`, or be a folder, but ends in {path.suffix!r} instead.")
    if not isinstance(task.network, Llama):
        kind = task.config_tree()["model"]["kind"]
        raise ConfigError(f"`{path}` must end in `{SUFFIX}`: Hugging Face's folders hold llama models, and no {kind}.")
    stored = next(iter(model.tensors.values())).dtype
    write_huggingface(
        path,
        model.tensors,
        task.network.shape.tree(),
        task.network.vocab_size,
        dtype=dtype or (stored if stored in FLOATS else torch.float32),
        files=task.files(),
        read=model.read,
    )


# --- starting from a model --------------------------------------------------------------------------------------------


def begun(tree: Tree, folder: Path) -> Tree:
    """The settings of an experiment that starts with the weights of a folder in Hugging Face's format.

    Model, vocabulary and tokenizer become the folder's; where it has no tokenizer that is read, the experiment's must
    have as many units.

    Args:
        tree: of the experiment, composed; it trains a language model.
        folder: which.

    Raises:
        ArchiveError: it is missing, broken, or of an architecture that is not read.
        ConfigError: the experiment's tokenizer does not fit.
    """
    stored, task = read_huggingface(folder), dict(tree["task"])
    if (folder / TOKENIZER).is_file():
        task["tokenizer"] = {"kind": "sentencepiece", "path": str(folder / TOKENIZER)}
    else:
        own = decode(LanguageModellingConfig, {k: v for k, v in task.items() if k != "kind"}, "task")
        number = own.vocab_size or own.tokenizer.build().vocab_size
        rule = f"of the {stored.vocab_size} units of `{folder}`"
        must(number == stored.vocab_size, "task.tokenizer", rule, value=number, hint=no_tokenizer(folder))
    task["vocab_size"] = stored.vocab_size
    balance = (tree.get("model") or {}).get("balance") or 0.0  # a matter of training, of which a folder says nothing
    return {**tree, "task": task, "model": {**stored.model, "balance": balance}}
