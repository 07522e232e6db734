"""Characters with a mark between words, as wav2vec 2.0 writes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anemone.config import EMPTY, must
from anemone.features.tokenizers import Characters, CharactersConfig, Unknown


@dataclass(frozen=True, kw_only=True)
class DelimitedConfig:
    """One unit for each character, and one between words."""

    characters: tuple[str, ...]
    """The units, in order; one may be longer than a character, such as ``<s>``."""

    delimiter: str = "|"
    """The unit that stands between words; one of ``characters``."""

    lowercase: bool = False
    """Whether to write all text in lower case."""

    unknown: Unknown = "refuse"
    """What to do with a character that is not among them: refuse the text, drop it, or put ``unknown_piece``."""

    unknown_piece: str = "<unk>"
    """The unit for unknown characters, where ``unknown`` is "piece"; one of ``characters``."""

    def __post_init__(self) -> None:
        must(self.delimiter in self.characters, "delimiter", "one of `characters`", value=self.delimiter)
        spaced = [piece for piece in self.characters if piece.isspace() and piece != self.delimiter]
        must(not spaced, "characters", "without white space, for which the delimiter stands", value=spaced)
        self.spelled()

    def spelled(self) -> CharactersConfig:
        """Returns the settings of the same units with a space for the delimiter."""
        return CharactersConfig(
            characters=tuple(" " if piece == self.delimiter else piece for piece in self.characters),
            lowercase=self.lowercase,
            unknown=self.unknown,
            unknown_piece=self.unknown_piece,
        )

    def build(self, files: Mapping[str, bytes] = EMPTY) -> "Delimited":
        """Returns the tokenizer.

        Args:
            files: none is needed.
        """
        return Delimited(self.spelled())


class Delimited(Characters):
    """Writes text as characters; reading, it takes away white space around the text.

    Example:
        >>> tokenizer = DelimitedConfig(characters=("<s>", "|", "a", "b")).build()
        >>> tokenizer.encode("ab a")
        [2, 3, 1, 2]
        >>> tokenizer.decode([1, 2, 1, 3, 1])
        'a b'
    """

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the characters, joined, without white space around them."""
        return super().decode(ids).strip()
