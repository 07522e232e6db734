"""What is made of a text before it is cut into units: case, punctuation, Unicode's forms, spellings."""

import unicodedata
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from anemone.config import must
from anemone.features.wordpiece import is_punctuation, without_marks

FORMS: dict[str, Literal["NFC", "NFD", "NFKC", "NFKD"]] = {"nfc": "NFC", "nfd": "NFD", "nfkc": "NFKC", "nfkd": "NFKD"}
APOSTROPHES = "'\u2019\u02bc"  # dropped without a gap: its, not it s


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How texts are written for training and scoring alike; white space becomes single spaces always."""

    unicode: Literal["keep", "nfc", "nfd", "nfkc", "nfkd"] = "nfkc"
    """Unicode's normal form: c joins letters and marks, d takes them apart, k replaces ligatures and the like."""

    case: Literal["keep", "lower", "upper"] = "lower"
    """Whether letters keep their case, so that the model learns to write capitals."""

    punctuation: Literal["keep", "drop"] = "drop"
    """Whether signs of punctuation stay, so that the model learns to write them."""

    kept: str = "'"
    """Signs that stay where the others are dropped."""

    marks: Literal["keep", "drop"] = "keep"
    """Whether accents and other marks on letters stay."""

    replace: dict[str, str] = field(default_factory=lambda: {"\u2019": "'", "\u02bc": "'"})
    """Text -> what stands for it, before all else."""

    def __post_init__(self) -> None:
        must("" not in self.replace, "replace", "of texts that are not empty", value=self.replace)
        strange = [sign for sign in self.kept if not is_punctuation(sign)]
        must(not strange, "kept", "signs of punctuation", value=self.kept)

    def build(self) -> "Writing":
        """Returns what rewrites a text."""
        return Writing(self)


class Writing(NamedTuple):
    """Rewrites texts.

    Example:
        >>> TextConfig().build()("“It’s  5 o'clock,” she said — well-known.")
        "it's 5 o'clock she said well known"
        >>> TextConfig(case="keep", punctuation="keep").build()("It’s  5 o'clock!")
        "It's 5 o'clock!"
    """

    config: TextConfig

    def __call__(self, text: str) -> str:
        """Returns the text as the settings want it."""
        config = self.config
        for old, new in config.replace.items():
            text = text.replace(old, new)
        if config.unicode != "keep":
            text = unicodedata.normalize(FORMS[config.unicode], text)
        if config.marks == "drop":
            text = unicodedata.normalize("NFC", without_marks(text))
        text = text.lower() if config.case == "lower" else text.upper() if config.case == "upper" else text
        if config.punctuation == "drop":
            text = "".join(map(self._sign, text))
        return " ".join(text.split())

    def _sign(self, character: str) -> str:
        if character in self.config.kept or not is_punctuation(character):
            return character
        return "" if character in APOSTROPHES else " "


def plain(text: str) -> str:
    """Returns a text in lower case and without punctuation, but for apostrophes within words: what scores forgive.

    Example:
        >>> plain("Don't stop -- it's OK, said 'Bob'!")
        "don't stop it's ok said bob"
    """
    words = (word.strip("'") for word in _PLAIN(text).split())
    return " ".join(word for word in words if word)


_PLAIN = TextConfig().build()
