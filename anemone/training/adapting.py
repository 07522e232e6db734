"""What a run begins with, and what of it moves: weights of other models, whole or by part, adapters, frozen parts."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from anemone.cache import cache_folder
from anemone.checkpoint.archive import Archive, read_archive
from anemone.checkpoint.atomic import atomic_write
from anemone.checkpoint.fit import Report
from anemone.checkpoint.huggingface import read_huggingface
from anemone.checkpoint.registry import resolve
from anemone.checkpoint.snapshot import CONFIG
from anemone.config import Tree, must, nearest
from anemone.errors import ArchiveError
from anemone.nn.adapters import HOLDER, within
from anemone.parallel.gradients import local
from anemone.parallel.initial import part_of
from anemone.tasks import rebuild
from anemone.tasks.adapting import ADAPTERS, AdaptersConfig, attach, base_of, on_base, weights_of
from anemone.tasks.task import Task
from anemone.tasks.vocabulary import regrow

log = logging.getLogger("anemone.training")

Init = str | Mapping[str, str] | None
"""A model, or part of the network -> model."""

Fill = Callable[[Mapping[str, Tensor]], None]
"""Puts weights into tensors of their names, of a `DTensor` what this rank holds."""

MAX_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(AdaptersConfig):
    """What of a model moves. With `lora` or `adapters` these alone, and what `train` names; else all but `freeze`."""

    freeze: tuple[str, ...] = ()
    """Patterns of names of weights or modules that stay as they are, statistics of batch normalisation with them."""

    train: tuple[str, ...] = ()
    """Patterns of those that move all the same, such as ``head``."""


# --- what moves -------------------------------------------------------------------------------------------------------


def adapt(task: Task, config: AdaptConfig | None, init: Init = None) -> None:
    """Hangs the adapters of a run on its task, and freezes what is not to move.

    Args:
        task: with or without its weights.
        config: of the run.
        init: what the run begins with; where it is one model, an archive of the task holds only what differs from it.

    Raises:
        ConfigError: a pattern fits nothing, or nothing is left that moves.
    """
    if config is None:
        return
    if config:
        with torch.device("meta") if task.lazy else nullcontext():
            attach(task, config)
        task.base = base_of(init, weights_of(init)) if isinstance(init, str) else None
    names = [name for name, _ in task.network.named_parameters()]
    for path in ("freeze", "train"):
        for pattern in getattr(config, path):
            fits = any(within(name, [pattern]) for name in names)
            modules = [name for name, _ in task.network.named_modules() if name]
            rule = "patterns that fit weights of the network"
            must(fits, f"adapt.{path}", rule, value=pattern, hint=nearest(pattern, modules).strip())
    for name, parameter in task.network.named_parameters():
        parameter.requires_grad_(_moves(name, config))
    must(
        any(p.requires_grad for p in task.network.parameters()),
        "adapt.freeze",
        "such that something moves",
        value=[*config.freeze],
    )
    task.still = [
        m for name, m in task.network.named_modules() if isinstance(m, _BatchNorm) and _still(name, m, config)
    ]
    task.train(task.training)


def _moves(name: str, config: AdaptConfig) -> bool:
    if within(name, config.train):
        return True
    if config:
        parts = name.split(".")
        return HOLDER in parts and config.name in parts
    return not within(name, config.freeze)


def _still(name: str, module: nn.Module, config: AdaptConfig) -> bool:
    """Whether a batch normalisation is frozen: its weights are, or, where it has none, the module it lies in."""
    own = list(module.parameters(recurse=False))
    return not any(p.requires_grad for p in own) if own else not _moves(name, config)


# --- what it begins with ----------------------------------------------------------------------------------------------


class Start(NamedTuple):
    """Weights that a network begins with."""

    names: frozenset[str]
    """Of the weights."""

    fill: Fill
    """Puts them into tensors of some of these names."""

    reports: dict[str, Report]
    """What became of each tensor, by source."""


def start(task: Task, init: Init, *, only: Sequence[str] | None = None, but: Sequence[str] | None = None) -> Start:
    """Says what a network takes from other models, before it is laid out.

    A recogniser or language model with another tokenizer than the source keeps the rows of the tokens that both have.

    Args:
        task: whose network it is.
        init: a model, or part of the network -> model that has a part of that name.
        only: patterns of names of weights; no others are taken.
        but: patterns of those that are not taken.

    Raises:
        ArchiveError: a source is broken, has nothing of what is asked for, or a tensor of another shape.
    """
    own = {n: t for n, t in task.network.state_dict(keep_vars=True).items() if HOLDER not in n.split(".")}
    starts = [
        _start(task, own, part, source, lambda name: _wanted(name, only, but))
        for part, source in (init.items() if isinstance(init, Mapping) else {"": init or ""}.items())
    ]
    twice = sorted(a & b for i, (a, _, _) in enumerate(starts) for b, _, _ in starts[:i] if a & b)
    must(not twice, "run.init", "of parts that do not overlap", value=init)

    def fill(tensors: Mapping[str, Tensor]) -> None:
        for names, put, _ in starts:
            put({name: tensor for name, tensor in tensors.items() if name in names})

    reports = {source: report for _, _, found in starts for source, report in found.items()}
    return Start(frozenset().union(*(names for names, _, _ in starts)), fill, reports)


def _wanted(name: str, only: Sequence[str] | None, but: Sequence[str] | None) -> bool:
    return (only is None or within(name, only)) and not (but and within(name, but))


def _start(task: Task, own: Mapping[str, Tensor], part: str, source: str, wanted: Callable[[str], bool]) -> Start:
    """What a network takes from one model."""
    given, notes, fill = _opened(task, own, resolve(source))
    inside = [name for name in own if not part or within(name, [part])]
    outer = sorted({name.partition(".")[0] for name in own})
    rule, hint = f"of parts of the network ({', '.join(outer)})", nearest(part, outer).strip()
    must(bool(inside), "run.init", rule, value=part, hint=hint)
    there = [name for name in given if not part or within(name, [part])]
    taken = [name for name in there if name in own and wanted(name)]
    _check(source, own, given, taken)
    if not taken:
        held = sorted({name.partition(".")[0] for name in given})
        raise ArchiveError(f"`{source}` has nothing that `run.init` asks for: it holds {', '.join(held)}.")
    skipped = {name: "drawn: not in the source" for name in inside if name not in given}
    skipped |= {name: "drawn: left out by `run.init_only` or `run.init_except`" for name in inside if not wanted(name)}
    skipped |= {name: "not in the model" for name in there if name not in own}
    share = sum(own[name].numel() for name in taken) / max(1, sum(own[name].numel() for name in inside))
    kept = {name: "rows of shared tokens kept, the others drawn" for name in notes if name in taken}
    report = Report(tuple(name for name in taken if name not in kept), kept, skipped, share)
    return Start(frozenset(taken), fill, {source: report})


def _opened(task: Task, own: Mapping[str, Tensor], path: Path) -> tuple[Mapping[str, Tensor], tuple[str, ...], Fill]:
    """The tensors of a model, or stand-ins; the names of those that got other rows; and what puts them into others."""
    if (path / CONFIG).is_file() and task.parts.task.data == "tokens":
        theirs = read_huggingface(path)
        return {name: theirs.stand_in(name) for name in theirs}, (), theirs.read_into
    archive = on_base(read_archive(path), path)
    if ADAPTERS in archive.config:
        raise ArchiveError(f"`{path}` must have no adapters: write it with them merged, by `anemone convert --merge`.")
    given, notes = _regrown(task, archive, own)

    def fill(tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            _put(tensor, given[name])

    return given, notes, fill


def _check(source: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Raises if a tensor that is to be taken does not fit; lists them all."""
    wrong = [
        f"`{name}` must be {list(own[name].shape)}, but is {list(given[name].shape)} instead."
        for name in names
        if own[name].shape != given[name].shape
    ]
    if wrong:
        more = [f"... and {len(wrong) - MAX_LISTED} more."] if len(wrong) > MAX_LISTED else []
        hint = (
            "Give the model of the source (leave `model` and `features` out), or leave these out by `run.init_except`."
        )
        raise ArchiveError("\n  ".join([f"the weights of `{source}` do not fit:", *wrong[:MAX_LISTED], *more, hint]))


def _regrown(task: Task, archive: Archive, own: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """The tensors of an archive, those of its vocabulary in the order of the task's; and the names of those."""
    tokenizer, tree = getattr(task, "tokenizer", None), archive.config.get("task") or {}
    if tokenizer is None or "tokenizer" not in tree:
        return archive.tensors, ()
    old = pieces_of(archive.config, archive.files)
    if old == list(tokenizer.pieces):
        return archive.tensors, ()
    regrown = regrow(archive.tensors, own, old, tokenizer.pieces)
    if regrown.names:
        log.info("Another vocabulary: %d of %d tokens are those of the source.", regrown.shared, len(tokenizer.pieces))
    return regrown.tensors, regrown.names


def pieces_of(tree: Tree, files: Mapping[str, bytes]) -> list[str]:
    """The spellings of the tokens of a model, of which the config and files of an archive tell."""
    with torch.device("meta"):
        task: Any = rebuild(tree, files)
    return list(task.tokenizer.pieces)


def _put(tensor: Tensor, value: Tensor) -> None:
    """Copies a whole tensor into one that may be a part."""
    if isinstance(tensor, DTensor):
        value = part_of(value, tensor.device_mesh, tensor.placements)
    with torch.no_grad():
        local(tensor).copy_(value)


# --- settings ---------------------------------------------------------------------------------------------------------


def filled(tree: Tree, init: str) -> Tree:
    """The settings of an experiment that begins with an archive, which tells what the experiment leaves out.

    That is ``model`` and ``features``, wholly or but for some settings (a group without ``kind``), and of ``task`` the
    tokenizer and the head; loss and decoding, where the kind of task is the same.

    Args:
        tree: of the experiment, composed.
        init: path or name of the archive.

    Raises:
        ArchiveError: it is missing or broken.
    """
    path = resolve(init)
    archive = on_base(read_archive(path), path)
    told, task = archive.config, dict(tree.get("task") or {})
    parts = {name: _laid(told.get(name), tree.get(name)) for name in ("model", "features")}
    if task.get("kind") == told["task"]["kind"]:
        given = {name: tree.get(name) or told.get(name) for name in ("loss", "decoding")} if "head" not in task else {}
        parts |= given
        for name in ("tokenizer", "head", "text"):
            if task.get(name) is None and told["task"].get(name) is not None:
                task[name] = kept(told["task"][name], archive.files)
    return {**tree, **{name: part for name, part in parts.items() if part is not None}, "task": task}


def _laid(told: Tree | None, own: Tree | None) -> Tree | None:
    """The group of an experiment, laid over that of an archive where it says no kind."""
    if isinstance(own, str) or (own and "kind" in own):
        return own
    return {**(told or {}), **(own or {})} or None


def kept(tree: Tree, files: Mapping[str, bytes]) -> Tree:
    """The settings of a tokenizer that lies in an archive, with its file in the cache, where a run can read it."""
    if not isinstance(tree, Mapping) or "path" not in tree or len(files) != 1:
        return tree
    ((name, data),) = files.items()
    path = cache_folder() / "tokenizers" / hashlib.sha256(data).hexdigest()[:16] / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data)
    return {**tree, "path": str(path)}
