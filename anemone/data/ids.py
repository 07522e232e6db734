"""Ids of utterances: made different where they are not, and made names of files."""

import hashlib
import re
from collections.abc import Iterable

LONGEST = 64  # letters of a name; with what follows it fits the 100 of the plainest tar


def different(ids: Iterable[str]) -> tuple[list[str], list[int]]:
    """Returns ids of which no two are alike, and where they had to be changed: the second ``a`` becomes ``a-2``.

    Example:
        >>> different(["a", "b", "a", "a-2", "a"])
        (['a', 'b', 'a-3', 'a-2', 'a-4'], [2, 4])
    """
    names = list(ids)
    taken, seen, changed = set(names), set[str](), []
    counts: dict[str, int] = {}
    for i, name in enumerate(names):
        if name in seen:
            number = counts.get(name, 1) + 1
            while f"{name}-{number}" in taken:
                number += 1
            counts[name] = number
            names[i] = f"{name}-{number}"
            taken.add(names[i])
            changed.append(i)
        seen.add(names[i])
    return names, changed


def file_stem(name: str) -> str:
    """Returns a name that any file system and any tar takes, without dots or folders; different for different ids.

    Example:
        >>> file_stem("ann_07"), file_stem("../../etc/passwd")
        ('ann_07', '______etc_passwd-3754d6cb3a38')
    """
    safe = re.sub(r"[^A-Za-z0-9_@-]", "_", name)
    if safe == name and 0 < len(safe) <= LONGEST:
        return safe
    return f"{safe[:LONGEST]}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
