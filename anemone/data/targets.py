"""What a task learns from a row, made of its text and, where the task asks for them, of further columns."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from anemone.config import EMPTY

Encode = Callable[[str], Sequence[int]]
"""Target text -> tokens or class number. A `RowEncode` is one that is shown more of the row."""


class Target(NamedTuple):
    """What a task learns from a row."""

    tokens: Sequence[int]
    """The prompt, then the text."""

    prompt_len: int
    """How many of them are the prompt: given rather than learned."""


class RowEncode(NamedTuple):
    """Gives the target of a row from its text and further columns of its manifest; of a text alone it gives the tokens.

    Example:
        >>> by_language = RowEncode(("lang",), lambda text, row: Target([len(row.get("lang") or ""), len(text)], 1))
        >>> by_language.of("bonjour", {"lang": "fr"})
        Target(tokens=[2, 7], prompt_len=1)
        >>> by_language("hello")
        [0, 5]
    """

    columns: tuple[str, ...]
    """Names of the columns."""

    of: Callable[[str, Mapping[str, Any]], Target]
    """From the text and the values of the columns, None where a line has none; raises DataError."""

    prompted: bool = True
    """Whether its targets begin with prompts."""

    def __call__(self, text: str) -> list[int]:
        """Returns the tokens of a text whose row says nothing more."""
        return list(self.of(text, EMPTY).tokens)

    def joined(self, targets: Sequence[Target]) -> tuple[list[Sequence[int]], list[int] | None]:
        """Returns the tokens of each, and the lengths of their prompts where there are prompts."""
        tokens, lengths = [target.tokens for target in targets], [target.prompt_len for target in targets]
        return tokens, lengths if self.prompted else None


def row_encode(encode: Encode) -> RowEncode:
    """Returns what encodes whole rows: itself, or one that looks at the text alone."""
    return encode if isinstance(encode, RowEncode) else RowEncode((), partial(_plain, encode), prompted=False)


def _plain(encode: Encode, text: str, values: Mapping[str, Any]) -> Target:
    return Target(encode(text), 0)
