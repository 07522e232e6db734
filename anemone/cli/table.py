"""Plain text tables: columns as wide as their longest cell, numbers to the right; the same in a terminal and a file."""

from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns lines with a heading; a key of any row is a column, a row without it has an empty cell.

    Example:
        >>> print(table([{"name": "a", "size": 12}, {"name": "long", "score": 0.5}]))
        name  size  score
        a       12
        long        0.5

    Args:
        rows: column -> cell.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    right = [any(isinstance(row.get(key), int) for row in rows) for key in columns]
    return "\n".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    )


def cell(value: Any) -> str:
    """Returns a value as a table shows it: floats with four digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
