"""How a table of settings is read: every setting is translated, or refused by name; none is passed over."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from anemone.config import Tree, nearest
from anemone.errors import ArchiveError


class Rule(NamedTuple):
    """What becomes of one foreign setting."""

    ours: str
    """Our name for it."""

    default: Any
    """The foreign value where it is left out."""

    convert: Callable[[Any], Any] = lambda value: value
    """From the foreign value to ours; a ValueError or TypeError refuses it."""


class Only(NamedTuple):
    """Foreign values of a setting that change nothing here; any other is refused."""

    values: tuple[Any, ...]


class Ignored(NamedTuple):
    """A setting that says nothing about what a trained model computes."""


Table = Mapping[str, Rule | Only | Ignored]


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
