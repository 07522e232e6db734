"""NeMo's archives: settings and tensors translated into ours, or refused by name.

A ``.nemo`` is a tar of ``model_config.yaml``, ``model_weights.ckpt`` (what `torch.save` writes) and artifacts such as
tokenizers. The classes it names are keys into the tables of `anemone.checkpoint.names`; nothing is ever imported by
such a name.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from anemone.checkpoint.archive import NEMO_CONFIG, Archive
from anemone.checkpoint.names import features, heads, quartznet
from anemone.checkpoint.names.rules import Table, translate
from anemone.checkpoint.safe import load_tensors, load_tree, open_members
from anemone.config import Tree, last_part, nearest
from anemone.errors import ArchiveError

WEIGHTS = "model_weights.ckpt"
ENCODERS = {"nemo.collections.asr.modules.ConvASREncoder": quartznet.ENCODER}
ENCODER_KINDS = {heads.recognition: "quartznet", heads.classification: "matchboxnet"}
CROPS = {"nemo.collections.asr.modules.CropOrPadSpectrogramAugmentation": quartznet.CROP}
LOOKED_UP = {f"{p}._target_" for p in ("preprocessor", "spec_augment", "crop_or_pad_augment", "encoder", "decoder")}
RECOMPUTED = "preprocessor."  # windows and filters, which follow from the settings
SQUEEZED = ("pointwise.weight", "head.linear.weight")  # convolutions of kernel 1 there, matrices here

T = TypeVar("T")


def read_nemo(path: str | Path) -> Archive:
    """Reads a ``.nemo`` archive: our settings, our names of tensors, the tokenizer's files.

    Raises:
        ArchiveError: broken or hostile, or something in it has no counterpart here; says what.
    """
    with open_members(path) as members:
        try:
            config = load_tree(members.read(NEMO_CONFIG), NEMO_CONFIG)
            purpose, model, feature = _settings(config)
            with members.open(WEIGHTS) as file:
                tensors = rename(load_tensors(file, WEIGHTS), tensor_names(model))
            files = {ours: members.read(member) for ours, member in purpose.artifacts.items()}
        except ArchiveError as error:
            raise ArchiveError(f"`{path}`: {error}") from error
    return Archive({**purpose.tree, "model": model, "features": feature}, tensors, files)


def _settings(config: Tree) -> tuple[heads.Purpose, Tree, Tree]:
    """Translates NeMo's settings into those of a task with its loss, of a model, and of features."""
    read = _look_up(config.get("target"), heads.MODELS, "target")
    for where, name in _targets(config):
        if where not in LOOKED_UP:
            raise ArchiveError(f"`{where}` is {name!r}, which cannot be read: no class is looked up there.")
    if config.get("adapters"):
        raise ArchiveError("`adapters` cannot be read yet: save the model without them.")
    kind, table, extra = _look_up(_target(config, "preprocessor"), features.PREPROCESSORS, "preprocessor._target_")
    feature = {"kind": kind, **extra, **translate(config["preprocessor"], table, "preprocessor")}
    if config.get("spec_augment"):
        feature["spec_augment"] = _part(config, "spec_augment", features.AUGMENTATIONS)
    encoder = _part(config, "encoder", ENCODERS)
    model = {"kind": ENCODER_KINDS[read], "size": "custom", "blocks": quartznet.blocks(encoder["blocks"])}
    if config.get("crop_or_pad_augment"):
        model |= _part(config, "crop_or_pad_augment", CROPS)
    return read(config, _part(config, "decoder", heads.DECODERS)), model, feature


def _targets(tree: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Where a tree names classes, and which."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        path = f"{where}.{key}".lstrip(".")
        if key == "_target_":
            yield path, value
        yield from _targets(value, path)


def _part(config: Tree, name: str, tables: Mapping[str, Table]) -> Tree:
    """Translates the settings of one module by the table of its class."""
    return translate(config[name], _look_up(_target(config, name), tables, f"{name}._target_"), name)


def _target(config: Tree, name: str) -> Any:
    part = config.get(name)
    if not isinstance(part, Mapping):
        raise ArchiveError(f"`{NEMO_CONFIG}` must have the group `{name}`, but `{name}` is {part!r} instead.")
    return part.get("_target_")


def _look_up(name: Any, table: Mapping[str, T], where: str) -> T:
    """The entry of a class; the name is a key and never imported."""
    if not isinstance(name, str) or name not in table:
        raise ArchiveError(
            f"`{where}` is {name!r}, which cannot be read.{nearest(str(name), table, by=last_part)}"
            f" It can be: {', '.join(table)}."
        )
    return table[name]


def tensor_names(model: Tree) -> dict[str, str]:
    """Our name of each parameter and buffer -> NeMo's.

    Args:
        model: our settings of the encoder.
    """
    return {**quartznet.tensor_names(model["blocks"]), **heads.HEAD_NAMES}


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
    for wrong, what in ((missing, "lacks"), (unknown, "has tensors that its settings do not ask for:")):
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ArchiveError(f"`{WEIGHTS}` {what} {', '.join(f'`{name}`' for name in wrong[:5])}{more}.")
    return {ours: _squeeze(ours, tensors[theirs]) for ours, theirs in names.items()}


def _squeeze(name: str, tensor: Tensor) -> Tensor:
    return tensor.squeeze(2) if name.endswith(SQUEEZED) and tensor.ndim == 3 else tensor
