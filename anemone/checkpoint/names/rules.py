"""How a table of settings is read: every setting is translated, or refused by name; none is passed over."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from anemone.config import Tree, last_part, nearest
from anemone.errors import ArchiveError

T = TypeVar("T")
MATRICES = (
    "pointwise.weight",
    "head.linear.weight",
    "head.ctc.linear.weight",
    "conv.up.weight",
    "conv.down.weight",
)  # of ours: what others have as convolutions of one frame


class Rule(NamedTuple):
    """What becomes of one foreign setting."""

    ours: str
    """Our name for it."""

    default: Any
    """The foreign value where it is left out."""

    convert: Callable[[Any], Any] = lambda value: value
    """From the foreign value to ours; a ValueError or TypeError refuses it."""

    revert: Callable[[Any], Any] = lambda value: value
    """From our value to the foreign one, for archives that are written."""


class Only(NamedTuple):
    """Foreign values of a setting that change nothing here; any other is refused."""

    values: tuple[Any, ...]


class Ignored(NamedTuple):
    """A setting that says nothing about what a trained model computes."""


Table = Mapping[str, Rule | Only | Ignored]


class Encoder(NamedTuple):
    """How settings of an encoder's class are read."""

    table: Table
    """Its settings."""

    model: Callable[[Tree, Tree, str], Tree]
    """From (its settings translated, NeMo's settings of the whole model, our kind of task) to our settings of a model,
    with their ``kind``."""

    groups: tuple[str, ...] = ()
    """Further groups of the whole model whose classes ``model`` looks up."""


class Purpose(NamedTuple):
    """The settings of a task, and the archive's members it needs: our name -> the member."""

    tree: Tree
    artifacts: dict[str, str]


class Sizes(NamedTuple):
    """Numbers that NeMo writes into settings, and that here follow from others."""

    num_features: int
    """Bins of the features."""

    d_model: int
    """Width of the encoder's output."""

    vocab_size: int
    """Tokens or labels."""


class Written(NamedTuple):
    """Settings of a task as NeMo writes them, and the files that they name: name in the archive -> content."""

    settings: Tree
    artifacts: dict[str, bytes]


class Model(NamedTuple):
    """How the class of a whole model is read: what it is for."""

    purpose: Callable[[Tree], Purpose]
    """From NeMo's settings of the whole model to those of a task, its loss and its decoding."""

    groups: tuple[str, ...] = ("decoder",)
    """Groups of the whole model whose classes ``purpose`` looks up."""


def renewed(tree: Any) -> Any:
    """Returns settings as NeMo writes them since 1.0, of those before it: ``{cls, params: {...}}`` for a class.

    Args:
        tree: settings of the whole model, or a part of them.
    """
    if isinstance(tree, list):
        return [renewed(part) for part in tree]
    if not isinstance(tree, Mapping):
        return tree
    group = dict(tree)
    if "cls" in group and "_target_" not in group:
        group["_target_"] = group.pop("cls")
    if "_target_" in group and isinstance(group.get("params"), Mapping):
        group |= group.pop("params")
    return {key: renewed(value) for key, value in group.items()}


def look_up(name: Any, table: Mapping[str, T], where: str) -> T:
    """Returns the entry of a class; the name is a key and never imported.

    Args:
        name: what stands in an archive.
        table: by the names of classes.
        where: what the name belongs to, for messages.

    Raises:
        ArchiveError: no such entry.
    """
    if not isinstance(name, str) or name not in table:
        raise ArchiveError(
            f"`{where}` is {name!r}, which cannot be read.{nearest(str(name), table, by=last_part)}"
            f" It can be: {', '.join(table)}."
        )
    return table[name]


def target(config: Mapping[str, Any], name: str) -> Any:
    """Returns the name of the class of a group of settings.

    Args:
        config: settings of the whole model.
        name: of the group.

    Raises:
        ArchiveError: there is no such group.
    """
    part = config.get(name)
    if not isinstance(part, Mapping):
        raise ArchiveError(f"`model_config.yaml` must have the group `{name}`, but `{name}` is {part!r} instead.")
    return part.get("_target_")


def translate_part(config: Mapping[str, Any], name: str, tables: Mapping[str, Table]) -> Tree:
    """Translates a group of settings by the table of its class.

    Args:
        config: settings of the whole model.
        name: of the group.
        tables: by the names of classes.

    Raises:
        ArchiveError: no such group, a class without a table, or a setting that cannot be had here.
    """
    table = look_up(target(config, name), tables, f"{name}._target_")
    return translate(config[name], table, name)


def translate(settings: Any, table: Table, where: str) -> Tree:
    """Translates foreign settings by a table.

    Args:
        settings: foreign names and values; ``_target_`` is passed over, it was looked up before.
        table: foreign name -> what becomes of it.
        where: what the settings belong to, for messages.

    Raises:
        ArchiveError: a setting that is not in the table, or a value that cannot be had here.
    """
    if not isinstance(settings, Mapping):
        raise ArchiveError(f"`{where}` must be a group of settings, but is {settings!r} instead.")
    given = {str(key): value for key, value in settings.items() if key != "_target_"}
    for key, value in given.items():
        if key not in table:
            raise ArchiveError(f"`{where}.{key}` is not a setting that can be read.{nearest(key, table)}")
        rule = table[key]
        if isinstance(rule, Only) and value not in rule.values:
            choices = " or ".join(repr(v) for v in rule.values)
            raise ArchiveError(f"`{where}.{key}` must be {choices} to be read, but is {value!r} instead.")
    tree = {}
    for key, rule in table.items():
        if isinstance(rule, Rule):
            value = given.get(key, rule.default)
            try:
                tree[rule.ours] = rule.convert(value)
            except (ValueError, TypeError, KeyError) as error:
                raise ArchiveError(f"`{where}.{key}` cannot be read: {value!r}: {error}.") from error
    return tree


def revert(settings: Tree, table: Table) -> Tree:
    """Returns the foreign settings that `translate` makes ours of; `Only` and `Ignored` ones are left out.

    Args:
        settings: ours; those that the table does not name are passed over.
        table: foreign name -> what becomes of it.
    """
    rules = {theirs: rule for theirs, rule in table.items() if isinstance(rule, Rule)}
    return {theirs: rule.revert(settings[rule.ours]) for theirs, rule in rules.items() if rule.ours in settings}


def back(table: Mapping[Any, Any]) -> Callable[[Any], Any]:
    """Returns the way back from what a table makes of a setting.

    Args:
        table: foreign value -> ours, no two alike.
    """
    return {ours: theirs for theirs, ours in table.items()}.__getitem__


def maybe(none: Any, convert: Callable[[Any], Any] = lambda value: value) -> Callable[[Any], Any]:
    """Returns what reads a setting in which one value stands for none at all.

    Args:
        none: the value.
        convert: reads the others.
    """
    return lambda value: None if value == none else convert(value)


def or_none(none: Any, convert: Callable[[Any], Any] = lambda value: value) -> Callable[[Any], Any]:
    """Returns the way back from `maybe`.

    Args:
        none: the value that stands for None.
        convert: from our other values to theirs.
    """
    return lambda value: none if value is None else convert(value)


def as_matrices(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors with convolutions of one frame as the matrices that they are here.

    Args:
        tensors: by our names.
    """
    return {name: t.squeeze(2) if name.endswith(MATRICES) and t.ndim == 3 else t for name, t in tensors.items()}
