"""Adapters of a task: hung on by their settings, several by name, merged, and kept as an archive of what they change.

Such an archive is like any other (config, files, weights), but holds only the weights in which the model differs from
another one, its base, which it names by its path and by the sum of its weights:

    task = anemone.load("english.anemone")      # reads the base beside it, wherever that came from
    add(task, "doctors.anemone")                # a second set on the same base
    switch(task, ["doctors"])                   # only these count; [] for the base alone
    merge(task)                                 # low-rank changes become part of the weights
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from anemone.checkpoint.archive import Archive, Read, read_archive
from anemone.checkpoint.fit import load_tensors_into
from anemone.checkpoint.registry import resolve
from anemone.checkpoint.snapshot import CONFIG
from anemone.config import Tree, decode, encode, must
from anemone.errors import ArchiveError, ConfigError
from anemone.nn import adapters as hung
from anemone.nn.adapters import Activation, Bottleneck, LowRank, width_of

if TYPE_CHECKING:
    from anemone.tasks.task import Task

BASE, ADAPTERS = "base", "adapters"  # keys of an archive's config


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank changes of layers (arXiv:2106.09685)."""

    targets: tuple[str, ...]
    """Patterns of names of linear layers, convolutions over time and embeddings, or of modules that hold some; ``*`` is
    any text within a part of a name, ``**`` any number of parts."""

    rank: int = 8
    """Width of a change."""

    alpha: float = 16.0
    """What a change is multiplied by, times the rank."""

    dropout: float = 0.0
    """Share of a layer's inputs that the change does not see in training."""

    def __post_init__(self) -> None:
        must(len(self.targets) > 0, "targets", "at least one pattern", value=self.targets)
        must(self.rank >= 1, "rank", "1 or more", value=self.rank)
        must(self.alpha > 0, "alpha", "above 0", value=self.alpha)
        must(0 <= self.dropout < 1, "dropout", "at least 0 and below 1", value=self.dropout)


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig:
    """Narrow networks after modules, added to what they give (arXiv:1902.00751)."""

    targets: tuple[str, ...]
    """Patterns of names of modules, such as ``encoder.layers.*``."""

    d: int = 32
    """Width inside."""

    activation: Activation = "swish"
    """The function inside."""

    norm: bool = True
    """Whether the states are normalised first."""

    def __post_init__(self) -> None:
        must(len(self.targets) > 0, "targets", "at least one pattern", value=self.targets)
        must(self.d >= 1, "d", "1 or more", value=self.d)


@dataclass(frozen=True, kw_only=True)
class AdaptersConfig:
    """One set of adapters."""

    name: str = "default"
    """What they are switched by."""

    lora: LoraConfig | None = None
    """Low-rank changes of layers."""

    adapters: BottleneckConfig | None = None
    """Bottlenecks after modules."""

    def __bool__(self) -> bool:
        return self.lora is not None or self.adapters is not None


class Base(NamedTuple):
    """The model that adapters hang on."""

    source: str
    """Path of its archive, or its name."""

    sha256: str
    """Of its weights, see `sum_of`."""


# --- hanging on -------------------------------------------------------------------------------------------------------


def attach(task: "Task", config: AdaptersConfig, path: str = "adapt") -> None:
    """Hangs new adapters on the network of a task; they change nothing yet.

    Args:
        task: with its weights, or on the meta device.
        config: what hangs where.
        path: of the settings, for messages.

    Raises:
        ConfigError: a pattern fits nothing, or what it fits cannot be changed so; or the name is taken.
    """
    must(bool(config), path, "given `lora` or `adapters`", value=encode(config))
    config = AdaptersConfig(name=config.name, lora=config.lora, adapters=config.adapters)
    must(config.name not in task.adapters, f"{path}.name", f"none of {list(task.adapters)}", value=config.name)
    for group, make in (("lora", _low_rank), ("adapters", _bottleneck)):
        if settings := getattr(config, group):
            try:
                made = partial(make, settings)
                hung.attach(task.network, config.name, settings.targets, make=made, layers=group == "lora")
            except ConfigError as error:
                full = f"{path}.{error.path}" if error.path == "name" else f"{path}.{group}.{error.path}"
                raise ConfigError(str(error).replace(f"`{error.path}`", f"`{full}`", 1), path=full) from None
    task.adapters[config.name] = config


def _low_rank(config: LoraConfig, module: nn.Module) -> LowRank:
    return LowRank(module, rank=config.rank, alpha=config.alpha, dropout=config.dropout)


def _bottleneck(config: BottleneckConfig, module: nn.Module) -> Bottleneck:
    return Bottleneck(width_of(module), d=config.d, activation=config.activation, norm=config.norm)


def switch(task: "Task", names: Sequence[str]) -> None:
    """Makes the adapters of these names count, and no others.

    Raises:
        ConfigError: the task has none of a name.
    """
    hung.switch(task.network, names)


def merge(task: "Task") -> None:
    """Makes the low-rank changes that are on a part of the weights; bottlenecks stay, as no weight could hold them."""
    on = {name for _, _, holder in hung.holders(task.network) for name in holder.enabled}
    hung.merge(task.network)
    for name in on & task.adapters.keys():
        rest = AdaptersConfig(name=name, adapters=task.adapters[name].adapters)
        task.adapters = {other: config for other, config in task.adapters.items() if other != name}
        task.adapters |= {name: rest} if rest else {}
    task.base = None


def remove(task: "Task", name: str) -> None:
    """Takes the adapters of a name away.

    Raises:
        ConfigError: the task has none of that name.
    """
    must(name in task.adapters, "name", f"one of {list(task.adapters)}", value=name)
    hung.detach(task.network, name)
    del task.adapters[name]


def add(task: "Task", source: str | Path) -> list[str]:
    """Hangs the adapters of an archive on a task that is their base, and switches them on; returns their names.

    Raises:
        ArchiveError: the archive holds no adapters, or other weights beside them, or those of another base.
        ConfigError: the task has adapters of that name already.
    """
    path = resolve(source)
    archive = read_archive(path)
    if BASE not in archive.config:
        raise ArchiveError(f"`{path}` must be an archive of adapters, but is a whole model instead.")
    others = [name for name in archive.tensors if hung.HOLDER not in name.split(".")]
    if others:
        raise ArchiveError(f"`{path}` must hold adapters alone, but has `{others[0]}`, too: load it with anemone.load.")
    own = {n: t for n, t in task.network.state_dict().items() if hung.HOLDER not in n.split(".")}
    if sum_of(own) != archive.config[BASE]["sha256"]:
        raise ArchiveError(f"`{path}` must hang on `{archive.config[BASE]['source']}`, but this is another model.")
    configs = decoded(archive.config)
    for config in configs:
        attach(task, config, str(path))
    load_tensors_into(task.network, archive.tensors, strict=False)
    return [config.name for config in configs]


# --- archives ---------------------------------------------------------------------------------------------------------


def decoded(tree: Tree) -> list[AdaptersConfig]:
    """The settings of the adapters that the config of an archive tells of."""
    return [decode(AdaptersConfig, item, f"{ADAPTERS}[{i}]") for i, item in enumerate(tree.get(ADAPTERS, []))]


def base_of(source: str | Path, tensors: Mapping[str, Tensor]) -> Base:
    """Describes a model that adapters are to hang on.

    Args:
        source: its path, which is kept whole, or its name.
        tensors: its weights.
    """
    path = Path(source)
    return Base(str(path.absolute()) if path.exists() else str(source), sum_of(tensors))


def weights_of(source: str | Path) -> Mapping[str, Tensor]:
    """The weights of a model by name: of an archive, a pretrained model, or a folder of Hugging Face's.

    Raises:
        ArchiveError: there is none, or it is broken.
    """
    from anemone.checkpoint.huggingface import read_huggingface
    from anemone.checkpoint.huggingface_speech import holds_speech

    path = resolve(source)
    theirs = (path / CONFIG).is_file() and not holds_speech(path)
    return read_huggingface(path) if theirs else read_archive(path).tensors


def sum_of(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of weights, whatever archive they lie in: of name, shape and numbers, as float32 where they float."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        tensor = (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _differ(own: Tensor, theirs: Tensor) -> bool:
    own = own.detach().cpu()
    return own.shape != theirs.shape or not torch.equal(own, theirs.to(own.dtype))


def small(archive: Archive, base: Base, read: Read | None = None) -> Archive:
    """What of an archive differs from the base, with its name; ``read`` gives tensors that are stand-ins in it."""
    theirs, get = weights_of(base.source), read or archive.tensors.__getitem__
    names = [name for name in archive.tensors if name not in theirs or _differ(get(name), theirs[name])]
    tree = {**base._asdict(), "without": sorted(theirs.keys() - archive.tensors.keys())}
    return archive._replace(
        config={**archive.config, BASE: tree}, tensors={name: archive.tensors[name] for name in names}
    )


def on_base(archive: Archive, path: Path, base: str | Path | None = None) -> Archive:
    """The archive of a whole model out of one that holds what differs from its base; any other as it is.

    Args:
        archive: that was read.
        path: where from; a base that is not where it was is looked for beside it.
        base: where the base is now.

    Raises:
        ArchiveError: the base is not found, or is another model than the one that was adapted.
    """
    if BASE not in archive.config:
        must(base is None, "base", f"left out for `{path}`, which is whole", value=str(base))
        return archive
    told = decode_base(archive.config[BASE], path)
    beside = path.parent / Path(told.source).name
    found = base or (told.source if Path(told.source).exists() or not beside.exists() else beside)
    try:
        tensors = weights_of(found)
    except ArchiveError as error:
        raise ArchiveError(
            f"`{path}` hangs on a base that cannot be read; say by `base` where it is. {error}"
        ) from error
    if sum_of(tensors) != told.sha256:
        raise ArchiveError(
            f"`{path}` must hang on the model that was `{told.source}` when it was adapted, but `{found}` has other "
            "weights. Say by `base` where that model is."
        )
    config = {name: tree for name, tree in archive.config.items() if name != BASE}
    dropped = set(archive.config[BASE].get("without", []))
    kept = {name: tensor for name, tensor in tensors.items() if name not in dropped}
    return archive._replace(config=config, tensors={**kept, **archive.tensors})


def decode_base(tree: Any, path: Path) -> Base:
    """Reads what an archive says of its base.

    Raises:
        ArchiveError: it does not say it as we write it.
    """
    if not isinstance(tree, Mapping) or not all(isinstance(tree.get(name), str) for name in Base._fields):
        raise ArchiveError(f"`{path}` must say `source` and `sha256` of its `{BASE}`, but says {tree!r} instead.")
    return Base(tree["source"], tree["sha256"])
