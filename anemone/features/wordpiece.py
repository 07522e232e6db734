"""WordPiece: sub-words as BERT cuts them (arXiv:1810.04805)."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anemone.config import EMPTY, must
from anemone.errors import ConfigError
from anemone.features.tokenizers import Unknown, read_file, settle

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
JOINED = (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re")
LONGEST_WORD = 100


@dataclass(frozen=True, kw_only=True)
class WordPieceConfig:
    """Sub-words of a WordPiece vocabulary, cut as BERT does (arXiv:1810.04805)."""

    path: str | None = None
    """The vocabulary, one piece a line. Not read where an archive brings ``vocab.txt`` along."""

    lowercase: bool = False
    """Whether to write all text in lower case and without accents."""

    unknown: Unknown = "piece"
    """What to do with words that cannot be put together: refuse the text, drop them, or put ``[UNK]``."""

    def build(self, files: Mapping[str, bytes] = EMPTY) -> "WordPiece":
        """Returns the tokenizer.

        Args:
            files: the vocabulary as ``vocab.txt``.

        Raises:
            ConfigError: the vocabulary is missing or broken.
        """
        return WordPiece(read_file(WordPiece.FILE, self.path, files), self)


class WordPiece:
    """Writes words and punctuation as the longest pieces that fit, from the left.

    Args:
        vocabulary: contents of the vocabulary's file.
        config: its settings.

    Raises:
        ConfigError: the vocabulary is broken.
    """

    FILE = "vocab.txt"

    def __init__(self, vocabulary: bytes, config: WordPieceConfig) -> None:
        self._vocabulary, self._config = vocabulary, config
        try:
            self.pieces = vocabulary.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise ConfigError(f"`{self.FILE}` must be text in UTF-8, but cannot be read: {error}") from error
        self.pieces = [piece.rstrip("\r") for piece in self.pieces[: -1 if self.pieces[-1] == "" else None]]
        self.vocab_size = len(self.pieces)
        self.sizes = [self._size(piece) for piece in self.pieces]
        self._numbers = {piece: i for i, piece in enumerate(self.pieces)}
        self.end = self._numbers.get("[SEP]")
        must(
            len(self._numbers) == self.vocab_size,
            self.FILE,
            "a list of different pieces",
            value=f"{self.vocab_size} lines",
        )
        must("[UNK]" in self._numbers, self.FILE, "a list of pieces with `[UNK]` among them", value=self.pieces[:8])

    def _size(self, piece: str) -> int:
        """Bytes that a piece stands for, and a space before it unless it goes on with a word."""
        return 0 if piece in SPECIAL else len(piece[2:].encode()) if piece.startswith("##") else 1 + len(piece.encode())

    def encode(self, text: str) -> list[int]:
        """Returns the numbers of the pieces.

        Raises:
            DataError: a word cannot be put together, and ``unknown`` is "refuse".
        """
        found = [(i, word) for word in words(text, lowercase=self._config.lowercase) for i in self._fit(word)]
        return settle(text, found, self._numbers["[UNK]"], policy=self._config.unknown)

    def _fit(self, word: str) -> list[int]:
        """The longest pieces from the left, or the unknown piece alone."""
        unknown, ids, start = [self._numbers["[UNK]"]], [], 0
        if len(word) > LONGEST_WORD:
            return unknown
        while start < len(word):
            mark = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if mark + word[start:end] in self._numbers)
            end = next(ends, None)
            if end is None:
                return unknown
            ids.append(self._numbers[mark + word[start:end]])
            start = end
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the words, with no space before the punctuation that wants none; special pieces are left out."""
        kept = [piece for piece in (self.pieces[i] for i in ids) if piece not in SPECIAL]
        rest = [p[2:] if p.startswith("##") else p if p.startswith(JOINED) else f" {p}" for p in kept[1:]]
        return "".join([*kept[:1], *rest])

    def files(self) -> dict[str, bytes]:
        """Returns the vocabulary."""
        return {self.FILE: self._vocabulary}


def words(text: str, *, lowercase: bool) -> list[str]:
    """Cuts a text at white space and around punctuation and CJK characters, dropping control characters."""
    if lowercase:
        text = without_marks(text.lower())
    shown = []
    for character in text:
        category = unicodedata.category(character)
        if character in "\t\n\r" or category == "Zs":
            shown.append(" ")
        elif is_punctuation(character) or "CJK UNIFIED" in unicodedata.name(character, ""):
            shown.append(f" {character} ")
        elif category[0] != "C" and character != "\ufffd":
            shown.append(character)
    return "".join(shown).split()


def without_marks(text: str) -> str:
    """Returns a text without accents and other marks on letters, taken apart (NFD)."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def is_punctuation(character: str) -> bool:
    """Whether a character is punctuation, or an ASCII sign that is neither letter nor digit."""
    sign = "!" <= character <= "~" and not character.isalnum()
    return sign or unicodedata.category(character).startswith("P")
