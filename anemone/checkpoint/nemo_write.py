"""Archives that NeMo opens: settings and tensors of ours, by the tables that `anemone.checkpoint.nemo` reads by.

The same content gives the same bytes. `anemone.tasks.nemo.save_nemo` writes a task, reads it back and compares.
"""

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import yaml
from torch import Tensor

from anemone.checkpoint.archive import NEMO_CONFIG, Archive, PlainDumper
from anemone.checkpoint.names import conformer, features, heads, quartznet, written
from anemone.checkpoint.names.rules import MATRICES, Sizes, Written
from anemone.checkpoint.nemo import WEIGHTS, head_kind, tensor_names
from anemone.config import Tree
from anemone.errors import ConfigError

ALIKE = {"classification": ("decoder.decoder_layers.0.weight",)}  # kind of head -> matrices of NeMo's, too
VERSION = "2.0.0"  # of NeMo: every one since reads such archives

# The tables to which a family adds its rows.
ENCODERS: dict[str, Callable[[Tree, Sizes], Tree]] = {  # our kind of model -> NeMo's groups of settings for it
    **dict.fromkeys(quartznet.FAMILY, quartznet.their_model),
    **dict.fromkeys(conformer.FAMILY, written.their_conformer),
}
HEADS: dict[str, Callable[[Tree, Mapping[str, bytes], Sizes], Written]] = {  # our kind of head -> the same, of the task
    "ctc": heads.their_recognition,
    "transducer": written.their_transducer,
    "hybrid": written.their_transducer,
    "classification": heads.their_classification,
}


def write_nemo(path: str | Path, archive: Archive, sizes: Sizes, recomputed: Mapping[str, Tensor]) -> None:
    """Writes a ``.nemo`` archive.

    Args:
        path: where to; an older file there is replaced.
        archive: our settings, with every number of the model written out, our tensors, and the tokenizer's files.
        sizes: what follows from the settings.
        recomputed: tensors that NeMo keeps and that here follow from the settings, by its names.

    Raises:
        ConfigError: NeMo has no counterpart to a setting; says which.
    """
    kind = head_kind(archive.config["task"])
    settings, artifacts = their_settings(archive.config, archive.files, sizes)
    state = {name: tensor.contiguous() for name, tensor in recomputed.items()}
    for ours, theirs in tensor_names(archive.config).items():
        tensor = archive.tensors[ours]
        convolved = ours.endswith(MATRICES) and tensor.ndim == 2 and not theirs.endswith(ALIKE.get(kind, ()))
        state[theirs] = (tensor.unsqueeze(2) if convolved else tensor).clone()  # not a part of a file's bytes
    weights = io.BytesIO()
    torch.save(state, weights)
    text = yaml.dump(settings, Dumper=PlainDumper, sort_keys=False, allow_unicode=True, width=120)
    members = {NEMO_CONFIG: text.encode(), **artifacts, WEIGHTS: weights.getvalue()}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def their_settings(config: Tree, files: Mapping[str, bytes], sizes: Sizes) -> Written:
    """Returns what stands in ``model_config.yaml``, and the files that it names.

    Args:
        config: ours, with every number of the model written out.
        files: of the tokenizer.
        sizes: what follows from the settings.

    Raises:
        ConfigError: NeMo has no counterpart to a setting; says which.
    """
    head, model = head_kind(config["task"]), config["model"]["kind"]
    for name, kind, table in (("task.head", head, HEADS), ("model.kind", model, ENCODERS)):
        if kind not in table:
            raise ConfigError(f"`{name}` must be one of {list(table)} to be written for NeMo, but is {kind!r} instead.")
    task, artifacts = HEADS[head](config, files, sizes)
    seen = features.their_features(config["features"])
    rate = config["features"]["rate"]
    data = {"manifest_filepath": None, "sample_rate": rate, "batch_size": 1, "shuffle": False}
    data |= {"labels": task["labels"]} if "labels" in task else {}
    target = task.pop("target")
    encoder = ENCODERS[model](config["model"], sizes)
    if config["model"].get("tap_layers"):
        shares, layers = config["loss"]["intermediate_weights"], config["model"]["tap_layers"]
        encoder["interctc"] = {"loss_weights": list(shares), "apply_at_layers": list(layers)}
    tree = {
        "sample_rate": rate,
        **seen,
        **encoder,
        **task,
        **dict.fromkeys(("train_ds", "validation_ds", "test_ds"), data),
    }
    return Written({**tree, "target": target, "nemo_version": VERSION}, artifacts)
