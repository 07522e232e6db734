"""One tokenizer of several, by language: their units stand one after the other in one space of numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from anemone.config import EMPTY, must, nearest, of_kind
from anemone.errors import DataError
from anemone.features.tokenizers import TOKENIZERS, Tokenizer

REGIONS = {"en": "en-US", "es": "es-ES", "fr": "fr-FR", "de": "de-DE"}
"""Where members have regions: the one that a language alone stands for."""


@dataclass(frozen=True, kw_only=True)
class MemberConfig:
    """A tokenizer among others."""

    language: str
    """What texts it is for, such as ``en``; or a name such as ``spl_tokens`` for marks that belong to no language."""

    tokenizer: Any = of_kind({name: TOKENIZERS[name] for name in TOKENIZERS if name != "aggregate"})
    """How it cuts a text."""


@dataclass(frozen=True, kw_only=True)
class AggregateConfig:
    """Several tokenizers, one for each language."""

    members: tuple[MemberConfig, ...]
    """The tokenizers, in the order of their units' numbers."""

    default: str | None = None
    """The language of a text where nothing says it; refused if null."""

    def __post_init__(self) -> None:
        names = [member.language for member in self.members]
        must(bool(names), "members", "at least one", value=names)
        must(len(set(names)) == len(names), "members", "of different languages", value=names)
        must(self.default is None or self.default in names, "default", "one of the languages", value=self.default)

    def build(self, files: Mapping[str, bytes] = EMPTY) -> "Aggregate":
        """Returns the tokenizer.

        Args:
            files: those of the members, each under its language and a dot: ``en.tokenizer.model``.

        Raises:
            ConfigError: a file is missing or broken.
        """
        built = {}
        for member in self.members:
            prefix = f"{member.language}."
            own = {name.removeprefix(prefix): data for name, data in files.items() if name.startswith(prefix)}
            built[member.language] = member.tokenizer.build(own)
        return Aggregate(built, self.default)


class Aggregate:
    """Writes a text by the tokenizer of its language.

    Example:
        >>> from anemone.features.tokenizers import CharactersConfig
        >>> of = lambda *characters: CharactersConfig(characters=characters).build()
        >>> both = Aggregate({"en": of(" ", "a", "b"), "ru": of(" ", "а", "б")})
        >>> both.encode_in("ba", "en"), both.encode_in("ба", "ru")
        ([2, 1], [5, 4])
        >>> both.decode([2, 1, 0, 5, 4]), both.language_of([5, 4])
        ('ba ба', 'ru')

    Args:
        members: the tokenizers by language, in the order of their units' numbers.
        default: the language of a text where nothing says it.
    """

    def __init__(self, members: Mapping[str, Tokenizer], default: str | None = None) -> None:
        self.members, self.default = dict(members), default
        self.pieces = [piece for member in members.values() for piece in member.pieces]
        self.sizes = [size for member in members.values() for size in member.sizes]
        self.languages = [language for language, member in members.items() for _ in member.pieces]
        """The language of each unit."""
        self.vocab_size, self.end = len(self.pieces), None
        self._first = {language: self.languages.index(language) for language in members}

    def encode(self, text: str) -> list[int]:
        """Returns the units of a text in the default language; see `encode_in`."""
        return self.encode_in(text, self.default)

    def encode_in(self, text: str, language: str | None) -> list[int]:
        """Returns the units of a text.

        Args:
            text: what to write.
            language: its language; one with regions may be named without.

        Raises:
            DataError: there is no tokenizer for the language, or it cannot write the text.
        """
        name = language or self.default
        name = name if name in self.members else REGIONS.get(name or "")
        if name not in self.members:
            raise DataError(
                f"the language of the text {text[:40]!r} must be one of {', '.join(self.members)}, "
                f"but is {language!r} instead.{nearest(str(language), self.members)}"
            )
        return [self._first[name] + number for number in self.members[name].encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of units, each read by its own tokenizer, without white space around it."""
        return "".join(self._texts(ids)).strip()

    def _texts(self, ids: Sequence[int]) -> Iterator[str]:
        """The texts of stretches of one language; SentencePiece drops the space before a stretch, which is put back."""
        for language, stretch in groupby(ids, key=self.languages.__getitem__):
            numbers = list(stretch)
            space = " " if self.pieces[numbers[0]].startswith("\u2581") else ""
            yield space + self.members[language].decode([number - self._first[language] for number in numbers])

    def language_of(self, ids: Sequence[int]) -> str | None:
        """Returns the language of most units, the first of those that are equal; None if there are no units."""
        found = [self.languages[number] for number in ids]
        return max(dict.fromkeys(found), key=found.count) if found else None

    def files(self) -> dict[str, bytes]:
        """Returns the members' files, each under its language and a dot."""
        return {f"{of}.{name}": data for of, member in self.members.items() for name, data in member.files().items()}
