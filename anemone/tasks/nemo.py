"""A task written as an archive that NeMo opens, read back and compared before it stands."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anemone.checkpoint.archive import Archive
from anemone.checkpoint.atomic import atomic_file
from anemone.checkpoint.names import conformer, quartznet
from anemone.checkpoint.names.rules import Sizes
from anemone.checkpoint.nemo import read_nemo
from anemone.checkpoint.nemo_write import write_nemo
from anemone.config import Tree, decode, encode, must
from anemone.errors import ConfigError
from anemone.features.mel import LogMel
from anemone.features.mfcc import MFCC
from anemone.tasks import Parts
from anemone.tasks.classification import ClassificationTask
from anemone.tasks.speech import SpeechTask
from anemone.tasks.task import Task

FAMILIES = (quartznet.FAMILY, conformer.FAMILY)  # kinds of one class of NeMo's, told apart by other settings
UNWRITTEN = ("loss.", "decoding.", "task.tokenizer.", "task.text")  # what a trained model answers is not among these


def save_nemo(task: Task, path: str | Path, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Writes a task as a ``.nemo`` archive.

    It is read back before it stands, so that what it says is what the task says. Settings of loss, decoding and text
    for training that have no place there are left out, with a warning.

    Args:
        task: one that hears speech.
        path: a file that ends in ``.nemo``.
        tensors: its parameters and buffers, where it has none itself.

    Raises:
        ConfigError: NeMo has no counterpart to a setting that matters; names it.
    """
    path = Path(path)
    must(path.suffix == ".nemo", "path", "a file that ends in `.nemo`", value=str(path))
    if not isinstance(task, SpeechTask):
        raise ConfigError(f"`{path}` cannot be written: NeMo's archives hold models of speech.")
    tree = written_out(task)
    stored = dict(tensors or task.network.state_dict())
    archive = Archive(tree, {name: tensor.detach().cpu() for name, tensor in stored.items()}, task.files())
    with torch.device("cpu"):
        features: Any = task.parts.features.build()
    encoder: Any = task.network.encoder
    sizes = Sizes(features.num_features, encoder.d_model, _vocab_size(task))
    with atomic_file(path) as draft:
        write_nemo(draft, archive, sizes, recomputed(features))
        back = read_nemo(draft)
        _compare(tree, encode(decode(Parts, back.config)), path)
        assert back.files == archive.files and back.tensors.keys() == archive.tensors.keys()


def written_out(task: Task) -> Tree:
    """Returns the settings of a task with those of a named size written out."""
    tree = task.config_tree()
    model = task.parts.model
    found = {"kind": tree["model"]["kind"], **encode(model.written_out())}
    return {**tree, "model": found | ({"nemo": True} if _alike(found) else {})}


def _alike(model: Tree) -> bool:
    """Whether a Conformer answers alike with and without ``nemo``, which says what becomes of padded frames."""
    if "nemo" not in model:
        return False
    stacked, local = model["subsampling"]["kind"].startswith("stacking"), model["attention"]["positions"] == "local"
    return not (stacked or local) and model["norm"] in ("batch", "affine", "layer")


def recomputed(features: nn.Module) -> dict[str, Tensor]:
    """Returns the buffers of NeMo's preprocessor, by its names.

    Args:
        features: the module.
    """
    if isinstance(features, LogMel):
        part = {"fb": features.energies.filterbank[None], "window": _window(features)}
    elif isinstance(features, MFCC):
        spectrum = "MelSpectrogram.spectrogram.window"
        bank = {"MelSpectrogram.mel_scale.fb": features.energies.filterbank.T}
        part = {"dct_mat": features.cosines.T, spectrum: _window(features), **bank}
    else:
        return {}
    if features.config.window == "none":
        part = {name: value for name, value in part.items() if name != "window"}
    return {f"preprocessor.featurizer.{name}": value for name, value in part.items()}


def _window(features: LogMel | MFCC) -> Tensor:
    """The window without the zeros around it."""
    window, config = features.energies.window, features.config
    left = (config.fft - config.win) // 2
    return window[left : left + config.win]


def _vocab_size(task: Any) -> int:
    """Tokens or labels."""
    return len(task.labels) if isinstance(task, ClassificationTask) else task.tokenizer.vocab_size


def _compare(ours: Tree, back: Tree, path: Path) -> None:
    """Raises where what was read back differs from what was to be written; warns where that does not matter."""
    if any({ours["model"]["kind"], back["model"]["kind"]} <= set(family) for family in FAMILIES):
        ours = {**ours, "model": {**dict.fromkeys(back["model"]), **ours["model"], "kind": back["model"]["kind"]}}
        back = {**back, "model": {**dict.fromkeys(ours["model"]), **back["model"]}}
    different = dict(_differences(ours, back))
    lost = [where for where in different if where.startswith(UNWRITTEN)]
    for where, (value, other) in different.items():
        if where not in lost:
            raise ConfigError(
                f"`{path}` cannot be written: `{where}` is {value!r}, for which NeMo's archives have no place"
                f" (it would come back as {other!r})."
            )
    if lost:
        warnings.warn(
            f"`{path}` leaves out {', '.join(f'`{name}`' for name in lost)}: no place for them.", stacklevel=3
        )


def _differences(ours: Any, back: Any, where: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yields path and both values of what differs."""
    if isinstance(ours, dict) and isinstance(back, dict):
        for key in [*ours, *(key for key in back if key not in ours)]:
            yield from _differences(ours.get(key), back.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(ours, list) and isinstance(back, list) and len(ours) == len(back):
        for i, (one, other) in enumerate(zip(ours, back, strict=True)):
            yield from _differences(one, other, f"{where}[{i}]")
    elif ours != back:
        yield where, (ours, back)
