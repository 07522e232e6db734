"""Names that stand for many: ``train_{0..127}.jsonl``, ``{a,b}.jsonl``, NeMo's ``audio__OP_0..127_CL_.tar``."""

import math
import os
import re
from itertools import product

from anemone.errors import DataError

MOST = 100_000  # names that one pattern may stand for
RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


def expand(pattern: str) -> list[str]:
    """Returns the names that a pattern stands for, the last braces running fastest; a file that exists is itself.

    Raises:
        DataError: braces are open, empty or within others, or there are too many names.

    Example:
        >>> expand("a_{00..02}.tar"), expand("a__OP_0..1_CL_{x,y}")
        (['a_00.tar', 'a_01.tar', 'a_02.tar'], ['a_0x', 'a_0y', 'a_1x', 'a_1y'])
    """
    text = pattern.replace("_OP_", "{").replace("_CL_", "}")
    if not {"{", "}"} & set(text) or os.path.exists(pattern):
        return [pattern]
    parts = re.split(r"\{([^{}]*)\}", text)
    if any({"{", "}"} & set(part) for part in parts[::2]):
        raise DataError(f"`{pattern}` must have braces that close, and none within others.")
    choices = [_choices(part, pattern) for part in parts[1::2]]
    if math.prod(len(choice) for choice in choices) > MOST:
        raise DataError(f"`{pattern}` must stand for at most {MOST} names, but stands for more.")
    return [
        "".join(part for pair in zip(parts[::2], [*found, ""], strict=True) for part in pair)
        for found in product(*choices)
    ]


def _choices(inside: str, pattern: str) -> list[str]:
    """What may stand in the place of some braces; a range has the width of its numbers where one begins with 0."""
    if found := RANGE.fullmatch(inside):
        first, last = found.groups()
        width = max((len(text) for text in (first, last) if text.startswith("0") and len(text) > 1), default=0)
        step = 1 if int(first) <= int(last) else -1
        numbers = range(int(first), int(last) + step, step)
        if len(numbers) > MOST:
            raise DataError(f"`{pattern}` must stand for at most {MOST} names, but stands for more.")
        return [f"{number:0{width}d}" for number in numbers]
    if not inside or ".." in inside:
        raise DataError(f"`{{{inside}}}` in `{pattern}` must be `{{0..127}}` or `{{a,b}}`.")
    return inside.split(",")
