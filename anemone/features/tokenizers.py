"""Units of text: bytes, characters and SentencePiece sub-words; WordPiece has a file of its own.

A tokenizer turns text into numbers below ``vocab_size`` and back. The blank of CTC and of transducers is not one of
them: the head adds it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from sentencepiece import SentencePieceProcessor

from anemone.config import EMPTY, must
from anemone.errors import ConfigError, DataError

TOKENIZERS = {
    "aggregate": "anemone.features.aggregate:AggregateConfig",
    "byte_bpe": "anemone.features.byte_bpe:ByteBPEConfig",
    "bytes": "anemone.features.tokenizers:BytesConfig",
    "characters": "anemone.features.tokenizers:CharactersConfig",
    "delimited": "anemone.features.delimited:DelimitedConfig",
    "sentencepiece": "anemone.features.tokenizers:SentencePieceConfig",
    "wordpiece": "anemone.features.wordpiece:WordPieceConfig",
}

Unknown = Literal["refuse", "drop", "piece"]
SHOWN = 200  # characters of a text in a message


class Tokenizer(Protocol):
    """What every tokenizer offers.

    Attributes:
        vocab_size: number of units.
        pieces: the units by number.
        sizes: bytes of UTF-8 that each stands for in a text, white space it brings along included; 0 for marks.
        end: the unit that ends a document, if there is one.
    """

    vocab_size: int
    pieces: list[str]
    sizes: list[int]
    end: int | None

    def encode(self, text: str) -> list[int]:
        """Returns the units of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of units."""

    def files(self) -> dict[str, bytes]:
        """Returns what ``build`` needs beside the settings, by name."""


# --- bytes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BytesConfig:
    """One unit for each byte of UTF-8."""

    def build(self, files: Mapping[str, bytes] = EMPTY) -> "Bytes":
        """Returns the tokenizer.

        Args:
            files: none is needed.
        """
        return Bytes()


class Bytes:
    """Writes text as the bytes of UTF-8. Byte 255, which UTF-8 never has, ends a document.

    Example:
        >>> BytesConfig().build().encode("né")
        [110, 195, 169]
        >>> BytesConfig().build().decode([110, 195, 169, 255])
        'né'
    """

    def __init__(self) -> None:
        self.vocab_size, self.end = 256, 255
        self.pieces = [chr(i) if i < 128 else f"<0x{i:02X}>" for i in range(256)]
        self.sizes = [1] * 255 + [0]

    def encode(self, text: str) -> list[int]:
        """Returns the bytes."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text; what is no UTF-8 becomes a replacement character."""
        return bytes(i for i in ids if i != self.end).decode(errors="replace")

    def files(self) -> dict[str, bytes]:
        """Returns nothing: there is nothing to set."""
        return {}


# --- characters -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CharactersConfig:
    """One unit for each character."""

    characters: tuple[str, ...]
    """The units, in order; one may be longer than a character, such as a mark for noise."""

    lowercase: bool = False
    """Whether to write all text in lower case."""

    unknown: Unknown = "refuse"
    """What to do with a character that is not among them: refuse the text, drop it, or put ``unknown_piece``."""

    unknown_piece: str = "<unk>"
    """The unit for unknown characters, where ``unknown`` is "piece"; one of ``characters``."""

    def __post_init__(self) -> None:
        must(len(self.characters) > 0, "characters", "at least one", value=self.characters)
        twice = sorted({c for c in self.characters if self.characters.count(c) > 1 or not c})
        must(not twice, "characters", "different from each other and not empty", value=twice)
        known = self.unknown != "piece" or self.unknown_piece in self.characters
        must(known, "unknown_piece", "one of `characters`", value=self.unknown_piece)

    def build(self, files: Mapping[str, bytes] = EMPTY) -> "Characters":
        """Returns the tokenizer.

        Args:
            files: none is needed.
        """
        return Characters(self)


class Characters:
    """Writes text as characters, without white space around it.

    Example:
        >>> tokenizer = CharactersConfig(characters=(" ", "a", "n", "e", "m", "o")).build()
        >>> tokenizer.encode("anemone")
        [1, 2, 3, 4, 5, 2, 3]
        >>> tokenizer.decode([1, 0, 4, 3])
        'a me'
    """

    def __init__(self, config: CharactersConfig) -> None:
        self.config = config
        self.pieces = list(config.characters)
        self.vocab_size = len(self.pieces)
        self.sizes, self.end = [len(piece.encode()) for piece in self.pieces], None
        self._numbers = {piece: i for i, piece in enumerate(self.pieces)}
        longest_first = sorted(map(re.escape, self.pieces), key=len, reverse=True)
        self._cut = re.compile("|".join([*longest_first, "."]), re.DOTALL)

    def encode(self, text: str) -> list[int]:
        """Returns the numbers of the characters.

        Raises:
            DataError: the text has a character that is not among the units, and ``unknown`` is "refuse".
        """
        surfaces = self._cut.findall(text.lower().strip() if self.config.lowercase else text.strip())
        unknown = self._numbers.get(self.config.unknown_piece, -1)
        found = [(self._numbers.get(surface, -1), surface) for surface in surfaces]
        return settle(text, found, -1, policy=self.config.unknown, instead=unknown)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the characters, joined."""
        return "".join(self.pieces[i] for i in ids)

    def files(self) -> dict[str, bytes]:
        """Returns nothing: the settings say it all."""
        return {}


# --- SentencePiece ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SentencePieceConfig:
    """Sub-words of a SentencePiece model (arXiv:1808.06226), BPE or unigram."""

    path: str | None = None
    """The model's file. Not read where an archive brings ``tokenizer.model`` along."""

    unknown: Unknown = "piece"
    """What to do with characters the model does not know: refuse the text, drop them, or put its unknown piece."""

    def build(self, files: Mapping[str, bytes] = EMPTY) -> "SentencePiece":
        """Returns the tokenizer.

        Args:
            files: the model as ``tokenizer.model``.

        Raises:
            ConfigError: the model is missing or broken.
        """
        return SentencePiece(read_file(SentencePiece.FILE, self.path, files), self.unknown)


class SentencePiece:
    """Writes text as the sub-words of a SentencePiece model.

    Args:
        model: contents of the model's file.
        unknown: what to do with unknown characters.

    Raises:
        ConfigError: the model is broken.
    """

    FILE = "tokenizer.model"

    def __init__(self, model: bytes, unknown: Unknown) -> None:
        self._model, self._unknown = model, unknown
        self._processor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ConfigError(f"`{self.FILE}` must be a SentencePiece model, but cannot be read: {error}") from error
        self.vocab_size: int = self._processor.vocab_size()
        self.pieces: list[str] = [self._processor.id_to_piece(i) for i in range(self.vocab_size)]
        self.sizes = [self._size(i) for i in range(self.vocab_size)]
        self.end: int | None = end if (end := self._processor.eos_id()) >= 0 else None

    def _size(self, number: int) -> int:
        """Bytes that a sub-word stands for; 0 for marks and for what the model does not know."""
        if self._processor.is_byte(number):
            return 1
        silent = self._processor.is_control(number) or self._processor.is_unknown(number)
        return 0 if silent else len(self.pieces[number].replace("\u2581", " ").encode())

    def encode(self, text: str) -> list[int]:
        """Returns the numbers of the sub-words.

        Raises:
            DataError: the text has characters unknown to the model, and ``unknown`` is "refuse".
        """
        ids: list[int] = self._processor.encode(text)
        unknown = self._processor.unk_id()
        if self._unknown == "piece" or unknown not in ids:
            return ids
        surfaces = self._processor.encode(text, out_type=str)
        return settle(text, zip(ids, surfaces, strict=True), unknown, policy=self._unknown)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of the sub-words."""
        text: str = self._processor.decode(list(ids))
        return text

    def files(self) -> dict[str, bytes]:
        """Returns the model."""
        return {self.FILE: self._model}


# --- what they share --------------------------------------------------------------------------------------------------


def settle(
    text: str, found: Iterable[tuple[int, str]], unknown: int, *, policy: Unknown, instead: int | None = None
) -> list[int]:
    """Returns the numbers of units, with the unknown ones refused, dropped or replaced.

    Args:
        text: the whole text, for the message.
        found: units and what they stand for.
        unknown: the number that marks an unknown unit.
        policy: "refuse", "drop" or "piece".
        instead: what to put for an unknown unit; itself by default.

    Raises:
        DataError: there are unknown units and the policy is "refuse".
    """
    found = list(found)
    if policy == "refuse" and (strange := sorted({surface for i, surface in found if i == unknown})):
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
        raise DataError(
            f"the text {shown!r} has {strange}, which the tokenizer does not know. Mend the text or the tokenizer, or "
            "set `task.tokenizer.unknown` to `drop`"
            + (", or `task.tokenizer.lowercase`." if text != text.lower() else ".")
        )
    if policy == "drop":
        return [i for i, _ in found if i != unknown]
    return [instead if i == unknown and instead is not None else i for i, _ in found]


def read_file(name: str, path: str | None, files: Mapping[str, bytes]) -> bytes:
    """Reads a tokenizer's file out of an archive, or from the disk.

    Args:
        name: what it is called in archives.
        path: where it lies on the disk, if anywhere.
        files: what an archive brings.

    Raises:
        ConfigError: it is in neither place.
    """
    if name in files:
        return files[name]
    must(path is not None and Path(path).is_file(), "path", f"the path of a file to read as `{name}`", value=path)
    return Path(str(path)).read_bytes()
