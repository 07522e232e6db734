"""NeMo's archives: settings and tensors translated into ours, or refused by name.

A ``.nemo`` is a tar of ``model_config.yaml``, ``model_weights.ckpt`` (what `torch.save` writes) and artifacts such as
tokenizers. The classes it names are keys into the tables of `anemone.checkpoint.names`; nothing is ever imported by
such a name.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from anemone.checkpoint.archive import NEMO_CONFIG, Archive
from anemone.checkpoint.names import attention, conformer, features, heads, quartznet, transducer
from anemone.checkpoint.names.rules import (
    Encoder,
    Model,
    Purpose,
    Rule,
    Table,
    as_matrices,
    look_up,
    renewed,
    target,
    translate,
    translate_part,
)
from anemone.checkpoint.safe import load_tensors, load_tree, open_members
from anemone.checkpoint.tensors import refuse_names
from anemone.config import Tree
from anemone.errors import ArchiveError

WEIGHTS = "model_weights.ckpt"

# The tables to which a family adds its rows.
MODELS: dict[str, Model] = {
    **heads.MODELS,
    **attention.MODELS,
    **transducer.MODELS,
}  # class of a model -> what it is for
ENCODERS: dict[str, Encoder] = {**quartznet.ENCODERS, **conformer.ENCODERS}  # class of an encoder -> its settings
ENCODER_NAMES: dict[str, Callable[[Tree], dict[str, str]]] = {  # our kind of model -> names of tensors, of its settings
    **dict.fromkeys(quartznet.FAMILY, quartznet.tensor_names),
    **dict.fromkeys(conformer.FAMILY, conformer.tensor_names),
}
# our kind of head -> the same, of the task's settings
HEAD_NAMES: dict[str, Callable[[Tree], dict[str, str]]] = {**heads.HEADS, **attention.HEADS, **transducer.HEADS}
TAPPED = conformer.FAMILY  # our kinds of model that give states of inner layers
INNER: Table = {"loss_weights": Rule("shares", None, list), "apply_at_layers": Rule("layers", None, list)}
RECOMPUTED = ("preprocessor.", *attention.RECOMPUTED)  # what follows from the settings


def read_nemo(path: str | Path) -> Archive:
    """Reads a ``.nemo`` archive: our settings, our names of tensors, the tokenizer's files.

    Raises:
        ArchiveError: broken or hostile, or something in it has no counterpart here; says what.
    """
    with open_members(path) as members:
        try:
            config = renewed(load_tree(members.read(NEMO_CONFIG), NEMO_CONFIG))
            purpose, model, feature = _settings(config)
            with members.open(WEIGHTS) as file:
                tensors = rename(load_tensors(file, WEIGHTS), tensor_names({**purpose.tree, "model": model}))
            files = {ours: members.read(member) for ours, member in purpose.artifacts.items()}
        except ArchiveError as error:
            raise ArchiveError(f"`{path}`: {error}") from error
    return Archive({**purpose.tree, "model": model, "features": feature}, tensors, files)


def _settings(config: Tree) -> tuple[Purpose, Tree, Tree]:
    """Translates NeMo's settings into those of a task with its loss, of a model, and of features."""
    whole = look_up(config.get("target"), MODELS, "target")
    encoder = look_up(target(config, "encoder"), ENCODERS, "encoder._target_")
    groups = ("preprocessor", "spec_augment", "encoder", *encoder.groups, *whole.groups)
    for where, name in _targets(config):
        if where not in {f"{group}._target_" for group in groups}:
            raise ArchiveError(f"`{where}` is {name!r}, which cannot be read: no class is looked up there.")
    if config.get("adapters"):
        raise ArchiveError("`adapters` cannot be read yet: save the model without them.")
    kind, table, extra = look_up(target(config, "preprocessor"), features.PREPROCESSORS, "preprocessor._target_")
    feature = {"kind": kind, **extra, **translate(config["preprocessor"], table, "preprocessor")}
    if config.get("spec_augment"):
        feature["spec_augment"] = translate_part(config, "spec_augment", features.AUGMENTATIONS)
    settings = translate(config["encoder"], encoder.table, "encoder")
    purpose = whole.purpose(config)
    task = purpose.tree["task"]
    if task.get("tokenizer", {}).get("kind") == "aggregate":  # the column of the language says which tokenizer cuts
        task.setdefault("prompt", {"format": "language"})
    model = encoder.model(settings, config, purpose.tree["task"]["kind"])
    if (config.get("interctc") or {}).get("loss_weights"):
        _add_inner(config["interctc"], model, purpose.tree["loss"])
    return purpose, model, feature


def _add_inner(interctc: Any, model: Tree, loss: Tree) -> None:
    """Adds the layers whose states CTC reads too to our settings of the model, and their shares to those of the loss.

    Raises:
        ArchiveError: they are not numbers of layers with their shares, or model or loss have none here.
    """
    found = translate(interctc, INNER, "interctc")
    if model["kind"] not in TAPPED or loss["kind"] not in ("ctc", "hybrid"):
        raise ArchiveError(f"`interctc` cannot be read for a {model['kind']} with the loss {loss['kind']}.")
    if len(found["layers"]) != len(found["shares"]) or len(set(found["layers"])) != len(found["layers"]):
        raise ArchiveError(f"`interctc` must have a weight for each of its layers, but is {interctc!r} instead.")
    pairs = sorted(zip(found["layers"], found["shares"], strict=True))
    model["tap_layers"] = [layer for layer, _ in pairs]
    loss["intermediate_weights"] = [share for _, share in pairs]


def _targets(tree: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Where a tree names classes, and which."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        path = f"{where}.{key}".lstrip(".")
        if key == "_target_":
            yield path, value
        yield from _targets(value, path)


def tensor_names(config: Tree) -> dict[str, str]:
    """Our name of each parameter and buffer -> NeMo's.

    Args:
        config: our settings: ``model`` with its kind, and ``task`` with its kind and, where it has several, its head.
    """
    model, task = config["model"], config["task"]
    return {**ENCODER_NAMES[model["kind"]](model), **HEAD_NAMES[head_kind(task)](task)}


def head_kind(task: Tree) -> str:
    """Returns our kind of head, or of task where that has one kind.

    Args:
        task: our settings of it.
    """
    kind: str = task.get("head", {"kind": "ctc"})["kind"] if task["kind"] == "recognition" else task["kind"]
    return kind


def rename(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Gives tensors our names and shapes.

    Args:
        tensors: NeMo's.
        names: our name -> NeMo's.

    Raises:
        ArchiveError: a tensor is missing, or has no counterpart.
    """
    missing = [theirs for theirs in names.values() if theirs not in tensors]
    known = set(names.values())
    unknown = [theirs for theirs in tensors if theirs not in known and not theirs.startswith(RECOMPUTED)]
    refuse_names(f"`{WEIGHTS}`", missing=missing, unknown=unknown, asker="its settings do")
    return as_matrices({ours: tensors[theirs] for ours, theirs in names.items()})
