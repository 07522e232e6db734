"""Puts tensors into modules: all of them, exactly, or those of one part, with a report of what was done."""

import difflib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from anemone.checkpoint.archive import Archive, read_archive
from anemone.checkpoint.registry import resolve
from anemone.config import last_part, nearest
from anemone.errors import ArchiveError

MAX_LISTED = 20  # complaints in one message


class Report(NamedTuple):
    """What became of each tensor when a part was loaded."""

    matched: tuple[str, ...]
    """Names in the model that got their values as they were; counters of steps are not among them."""

    reshaped: dict[str, str]
    """Name -> which axes of size one came or went, as between a convolution of width one and a linear layer."""

    skipped: dict[str, str]
    """Name -> why it was left as it was, or why it was not used."""

    share: float
    """Of the part's weights, how many came from the source, from 0 to 1."""

    def __str__(self) -> str:
        rows = [("matched", f"{len(self.matched)} tensors, with those reshaped {self.share:.1%} of the weights", "")]
        rows += [("reshaped", name, how) for name, how in self.reshaped.items()]
        rows += [("skipped", name, why) for name, why in self.skipped.items()]
        widths = [max(len(row[0]) for row in rows), max([len(row[1]) for row in rows[1:]], default=0)]
        return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows)


def load_tensors_into(module: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Copies tensors into the parameters and buffers of the same names.

    Floating types are converted to the module's own. A module on the meta device takes the tensors themselves.

    Args:
        module: where they go.
        tensors: name -> values.
        strict: whether every name must be on both sides; if not, those on one side only are left alone.

    Raises:
        ArchiveError: a shape or kind of number differs, or (if strict) a name is missing or unknown; lists them all.
    """
    check_fit(module, tensors, strict=strict)
    _put(module, {name: tensors[name] for name in module.state_dict() if name in tensors})


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Raises if `load_tensors_into` would.

    A module that was built on the meta device costs no memory: so the config of a stranger, which may ask for any
    size, can be held against the tensors that came with it before a byte is reserved.

    Raises:
        ArchiveError: as `load_tensors_into`.
    """
    own = module.state_dict()
    fitting = {name: tensors[name] for name in own if name in tensors}
    problems = [(name, why) for name, tensor in fitting.items() if (why := _misfit(own[name], tensor))]
    others: dict[str, list[str]] = {}
    if strict:
        missing = [name for name in own if name not in tensors]
        unknown = [name for name in tensors if name not in own]
        problems += [(name, "is missing in the archive") for name in missing]
        problems += [(name, "is not in the model") for name in unknown]
        others = dict.fromkeys(missing, unknown) | dict.fromkeys(unknown, missing)
    if problems:
        lines = [f"`{name}` {why}.{_similar(name, others.get(name, []))}" for name, why in problems[:MAX_LISTED]]
        lines += [f"... and {len(problems) - MAX_LISTED} more."] if len(problems) > MAX_LISTED else []
        raise ArchiveError("\n  ".join([f"the tensors do not fit {type(module).__name__}:", *lines]))


def load_part(model: nn.Module, part: str, source: str | Path | Archive, *, source_part: str | None = None) -> Report:
    """Loads one part of a model, such as its encoder, from another model; prints and returns what was done.

    A tensor whose shape differs only by axes of size one is reshaped; one that differs otherwise is skipped.

    Args:
        model: where the part is; the rest of it stays as it is.
        part: name of a submodule, "encoder"; the outer names may be left out where only one submodule ends so.
        source: an archive, its path, or the name of a pretrained model.
        source_part: the part's name in the source, if it has another name there.

    Raises:
        ArchiveError: the part is in one of the two only, or nothing of it fits.
    """
    archive = source if isinstance(source, Archive) else read_archive(resolve(source))
    target = model.get_submodule(_path(part, {name for name, _ in model.named_modules()}, "the model"))
    there = _path(source_part or part, _prefixes(archive.tensors), "the source")
    given = {name.removeprefix(f"{there}."): t for name, t in archive.tensors.items() if name.startswith(f"{there}.")}
    own = target.state_dict()
    matched, reshaped, fitting = [], {}, {}
    skipped = {name: "not in the source" for name in own if name not in given}
    for name, tensor in given.items():
        if name not in own:
            skipped[name] = "not in the model"
        elif not (why := _misfit(own[name], tensor)):
            matched += [name] if tensor.ndim else []
            fitting[name] = tensor
        elif how := _reshaping(own[name], tensor):
            reshaped[name] = how
            fitting[name] = tensor.reshape(own[name].shape)
        else:
            skipped[name] = why
    sizes = {name: tensor.numel() for name, tensor in own.items() if tensor.ndim}
    share = sum(sizes.get(name, 0) for name in fitting) / max(1, sum(sizes.values()))
    report = Report(tuple(matched), reshaped, skipped, share)
    if not matched and not reshaped:
        raise ArchiveError(f"nothing of `{part}` fits:\n{report}")
    _put(target, fitting)
    print(f"{part}:\n{report}")
    return report


def _put(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Loads what is known to fit; a module without data adopts the tensors."""
    own = module.state_dict()
    meta = any(own[name].is_meta for name in tensors)
    values = {name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}
    module.load_state_dict(values, strict=False, assign=meta)


@contextmanager
def at_most(num_weights: int) -> Iterator[None]:
    """Within the block, a module that registers more weights than this is refused before they are filled.

    So the config of a stranger, which may ask for any size, reserves no more than came with it.

    Raises:
        ArchiveError: more weights are asked for.
    """
    left, here = num_weights, threading.get_ident()
    seen: set[nn.Parameter] = set()  # weights that are tied are registered more than once

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        if threading.get_ident() != here:  # the hook sees the modules of all threads
            return
        if parameter is None or parameter in seen:
            return
        seen.add(parameter)
        left -= parameter.numel()
        if left < 0:
            raise ArchiveError(f"the config asks for more than the {num_weights:,} weights that came with it.")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _misfit(own: Tensor, given: Tensor) -> str:
    """Why a tensor cannot be loaded as it is; empty if it can."""
    if own.shape != given.shape:
        return f"must be {list(own.shape)}, but is {list(given.shape)} instead"
    if _number(own.dtype) != _number(given.dtype):
        return f"must be {own.dtype}, but is {given.dtype} instead"
    return ""


def _similar(name: str, names: list[str]) -> str:
    """Advice where one of ``names`` looks like a misspelling of ``name``."""
    close = difflib.get_close_matches(name, names[:500], n=1, cutoff=0.8)
    return f" Did you mean `{close[0]}`?" if close else ""


def _number(dtype: torch.dtype) -> str:
    """Kinds of numbers between which nothing is converted silently."""
    if dtype.is_floating_point:
        return "floating"
    return "complex" if dtype.is_complex else "bool" if dtype == torch.bool else "whole"


def _reshaping(own: Tensor, given: Tensor) -> str:
    """How a tensor becomes the model's by adding or dropping axes of size one; empty if it cannot."""
    same = [n for n in own.shape if n != 1] == [n for n in given.shape if n != 1]
    if not same or _number(own.dtype) != _number(given.dtype):
        return ""
    return f"{list(given.shape)} -> {list(own.shape)}, axes of size one"


def _prefixes(tensors: Mapping[str, Tensor]) -> set[str]:
    """Names of all modules that hold tensors."""
    parts = [name.split(".") for name in tensors]
    return {".".join(part[:i]) for part in parts for i in range(1, len(part))}


def _path(part: str, names: set[str], what: str) -> str:
    """The one name that is ``part`` or ends in it; the outermost if they lie within each other."""
    ends = sorted((name for name in names if f".{name}".endswith(f".{part}")), key=lambda name: (name.count("."), name))
    if not ends:
        outer = sorted({name for name in names if name and name.count(".") <= 1})
        raise ArchiveError(
            f"`{part}` is no part of {what}.{nearest(part, names, by=last_part)} It has: {', '.join(outer[:20])}."
        )
    level = ends[0].count(".")
    if part not in names and len(ends) > 1 and ends[1].count(".") == level:
        raise ArchiveError(f"`{part}` may be any of {', '.join(ends)} in {what}: give the whole name.")
    return part if part in names else ends[0]
