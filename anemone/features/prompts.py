"""What stands before a text: marks that say its language, the task, and whether it is punctuated.

A prompt is a template of marks and slots. The values of the slots come from columns of a manifest, from whoever asks
for a transcript, or are defaults. A prompt may be given to the network, which then writes on (Canary,
arXiv:2406.19674); or be learned as a part of the text, as tags of languages before it are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from anemone.config import EMPTY, must, nearest
from anemone.errors import ConfigError, DataError
from anemone.features.aggregate import Aggregate
from anemone.features.tokenizers import Tokenizer

Words = dict[str, tuple[str, ...]]
Format = Literal["custom", "canary", "canary2", "language_tag", "language"]
MARK = re.compile(r"<\|.*\|>|<pad>", re.DOTALL)
LANGUAGE = re.compile(r"<\|[a-z]{2,3}(-[A-Za-z]{2,4})?\|>")


@dataclass(frozen=True, kw_only=True)
class SlotConfig:
    """A place in a prompt that a row or a caller fills."""

    columns: tuple[str, ...] = ()
    """Columns of the manifest that fill it, the first that a row has; the one of the slot's own name if empty."""

    default: str | None = None
    """The value where nothing says it; refused if null."""

    words: Words = field(default_factory=dict)
    """Mark -> words that stand for it. If empty, the marks of languages fill the slot, and ``en`` stands for one."""

    text: bool = False
    """Whether any text fills it, instead of a mark."""


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """What stands before a text and what ends it."""

    format: Format = "custom"
    """A known format, which says all that is left out."""

    template: tuple[str, ...] | None = None
    """Marks, and slots in braces."""

    slots: dict[str, SlotConfig] = field(default_factory=dict)
    """The slots by name; those of the format that are not named stay."""

    defaults: dict[str, str] = field(default_factory=dict)
    """Slot -> its default; short for a slot that differs in nothing else."""

    end: str | None = None
    """The mark that ends a text."""

    language: tuple[str, ...] | None = None
    """Columns that say the language of the text, the first that a row has; then slots of these names."""

    learned: bool | None = None
    """Whether the prompt is learned as a part of the text, instead of being given."""

    grow: bool = True
    """Whether marks that the tokenizer lacks are added to its units, at the end."""

    def __post_init__(self) -> None:
        whole = self.whole() if self.format != "custom" else self
        named = set(re.findall(r"\{(\w+)\}", " ".join(whole.template or ())))
        must(named <= whole.slots.keys(), "template", f"of slots out of {sorted(whole.slots)}", value=sorted(named))
        unknown = sorted(self.defaults.keys() - whole.slots.keys())
        must(not unknown, "defaults", f"of slots out of {sorted(whole.slots)}", value=unknown)

    def whole(self) -> "PromptConfig":
        """Returns the config with everything that its format says, and the defaults in their slots."""
        known = FORMATS.get(self.format, PromptConfig)()
        slots = {**known.slots, **self.slots}
        slots |= {name: replace(slots[name], default=value) for name, value in self.defaults.items() if name in slots}
        given = {
            name: value
            for name in ("template", "end", "language", "learned")
            if (value := getattr(self, name)) is not None
        }
        return replace(known, **given, slots=slots, grow=self.grow)

    def build(self, tokenizer: Tokenizer) -> "Prompted":
        """Returns the tokenizer with prompts.

        Args:
            tokenizer: of the text.

        Raises:
            ConfigError: the tokenizer lacks a mark, and ``grow`` is false.
        """
        return Prompted(self.whole(), tokenizer)


def _switch(name: str, default: bool) -> SlotConfig:
    """A slot that is on or off, with the marks ``<|name|>`` and ``<|noname|>``."""
    words: Words = {f"<|{name}|>": ("yes", "true", "1", name), f"<|no{name}|>": ("no", "false", "0", f"no{name}")}
    return SlotConfig(default="yes" if default else "no", words=words)


def _language(*columns: str) -> SlotConfig:
    return SlotConfig(columns=columns, default="en")


TASKS: Words = {"<|transcribe|>": ("asr", "transcribe"), "<|translate|>": ("ast", "translate", "s2t_translation")}
EMOTIONS = ("undefined", "neutral", "angry", "happy", "sad")


def _canary() -> PromptConfig:
    return PromptConfig(
        template=("<|startoftranscript|>", "{source_lang}", "{task}", "{target_lang}", "{pnc}"),
        slots={
            "source_lang": _language("source_lang", "lang"),
            "task": SlotConfig(columns=("task", "taskname"), default="asr", words=TASKS),
            "target_lang": _language("target_lang", "lang"),
            "pnc": _switch("pnc", True),
        },
        end="<|endoftext|>",
        language=("lang", "target_lang"),
        learned=False,
    )


def _canary2() -> PromptConfig:
    switches = ("{pnc}", "{itn}", "{timestamp}", "{diarize}")
    words: Words = {f"<|emo:{emotion}|>": (emotion,) for emotion in EMOTIONS}
    return PromptConfig(
        template=(
            "<|startofcontext|>",
            "{decodercontext}",
            "<|startoftranscript|>",
            "{emotion}",
            "{source_lang}",
            "{target_lang}",
            *switches,
        ),
        slots={
            "decodercontext": SlotConfig(default="", text=True),
            "emotion": SlotConfig(default="undefined", words=words),
            "source_lang": _language("source_lang", "lang"),
            "target_lang": _language("target_lang", "lang"),
            "pnc": _switch("pnc", True),
            **{name: _switch(name, False) for name in ("itn", "timestamp", "diarize")},
        },
        end="<|endoftext|>",
        language=("lang", "target_lang"),
        learned=False,
    )


def _language_tag() -> PromptConfig:
    return PromptConfig(template=("{lang}",), slots={"lang": SlotConfig()}, language=("lang",), learned=True)


def _by_language() -> PromptConfig:
    return PromptConfig(template=(), slots={"lang": SlotConfig()}, language=("lang",), learned=True)


FORMATS = {"canary": _canary, "canary2": _canary2, "language_tag": _language_tag, "language": _by_language}


class Prompted:
    """Writes a row: the prompt of its columns, its text, and the mark that ends it. Marks vanish when it is read back.

    Example:
        >>> from anemone.features.tokenizers import CharactersConfig
        >>> letters = CharactersConfig(characters=(" ", "a", "b")).build()
        >>> words = {"<|en|>": ("en",), "<|fr|>": ("fr",)}
        >>> tagged = PromptConfig(format="language_tag", slots={"lang": SlotConfig(words=words)}).build(letters)
        >>> tagged.of("ab", {"lang": "fr"})
        ([4, 1, 2], 0)
        >>> tagged.decode([4, 1, 2]), tagged.language_of([4, 1, 2])
        ('ab', 'fr')

    Args:
        config: the prompt, whole.
        tokenizer: of the text.

    Raises:
        ConfigError: the tokenizer lacks a mark that is not added.
    """

    def __init__(self, config: PromptConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        template = config.template or ()
        fixed = [*(part for part in template if not part.startswith("{")), *([config.end] if config.end else [])]
        self._slots = [name for name in config.slots if f"{{{name}}}" in template]
        self._columns = {name: slot.columns or (name,) for name, slot in config.slots.items()}
        marks = [*fixed, *(mark for name in self._slots for mark in config.slots[name].words)]
        known = set(tokenizer.pieces)
        added = [mark for mark in dict.fromkeys(sorted(marks)) if mark not in known] if config.grow else []
        if lacking := [mark for mark in fixed if mark not in known and mark not in added]:
            raise ConfigError(f"`prompt` needs the units {lacking}, which the tokenizer lacks.", path="prompt")
        self.pieces, self.sizes = [*tokenizer.pieces, *added], [*tokenizer.sizes, *([0] * len(added))]
        self.vocab_size = len(self.pieces)
        self.marks = {piece: i for i, piece in enumerate(self.pieces) if MARK.fullmatch(piece) or piece in added}
        """Mark -> its number."""
        self._silent = set(self.marks.values())
        switches = {mark for name, slot in config.slots.items() for mark in slot.words if "lang" not in name}
        self._languages = [mark for mark in self.marks if LANGUAGE.fullmatch(mark) and mark not in switches]
        self.end = self.marks[config.end] if config.end else None
        columns = [column for names in self._columns.values() for column in names]
        self.columns = tuple(dict.fromkeys([*columns, *(config.language or ())]))
        """Columns of a manifest that it looks at."""

    def of(self, text: str, values: Mapping[str, Any]) -> tuple[list[int], int]:
        """Returns the units of a row, and how many of them are a prompt that is given.

        Args:
            text: of the row.
            values: of its columns.

        Raises:
            DataError: a value that no mark stands for, none where there is no default, or a text that the tokenizer
                cannot write.
        """
        prompt = self.prompt(values)
        end = [] if self.end is None else [self.end]
        return [*prompt, *self._text(text, values), *end], 0 if self.config.learned else len(prompt)

    def encode(self, text: str) -> list[int]:
        """Returns the units of a text whose row says nothing more."""
        return self.of(text, EMPTY)[0]

    def prompt(self, values: Mapping[str, Any]) -> list[int]:
        """Returns the units of a prompt; arguments and errors are those of `of`."""
        units: list[int] = []
        for part in self.config.template or ():
            name = part[1:-1] if part.startswith("{") else ""
            if name and self.config.slots[name].text:
                text = self._value(name, values)
                units += self._text(text, values) if text else []
            else:
                units.append(self.marks[self._mark(name, values) if name else part])
        return units

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of units, without the marks."""
        return self.tokenizer.decode([number for number in ids if number not in self._silent])

    def language_of(self, ids: Sequence[int]) -> str | None:
        """Returns the language that a mark among the units says, else that of most of them; None if neither is told."""
        tags = (self.pieces[number][2:-2] for number in ids if self.pieces[number] in self._languages)
        text = [number for number in ids if number not in self._silent]
        by_units = self.tokenizer.language_of(text) if isinstance(self.tokenizer, Aggregate) else None
        return next(tags, by_units)

    def files(self) -> dict[str, bytes]:
        """Returns the files of the tokenizer."""
        return self.tokenizer.files()

    def asked(self, language: str | None, slots: Mapping[str, Any]) -> list[int]:
        """Returns the units of a prompt that a caller asks for.

        Args:
            language: what fills all slots of languages.
            slots: what fills further slots, or those of languages in its place.

        Raises:
            ConfigError: there is no such slot, or a value that no mark stands for.
        """
        there = self._slots
        spoken = [name for name in there if "lang" in name]
        wrong = [name for name in slots if name not in there] + (["language"] if language and not spoken else [])
        if wrong:
            advice = nearest(wrong[0], there)
            raise ConfigError(f"`{wrong[0]}` is not a slot of the model's prompt.{advice} It has: {', '.join(there)}.")
        values = dict.fromkeys(spoken, language) if language else {}
        try:
            return self.prompt({self._columns[name][0]: value for name, value in (values | dict(slots)).items()})
        except DataError as error:
            raise ConfigError(str(error)) from error

    def _text(self, text: str, values: Mapping[str, Any]) -> list[int]:
        if not isinstance(self.tokenizer, Aggregate):
            return self.tokenizer.encode(text)
        names = self.config.language or ()
        said = (str(values[name]) for name in names if values.get(name) is not None)
        defaults = (slot.default for name in names if (slot := self.config.slots.get(name)) and slot.default)
        language = next(said, None) or next(defaults, None)
        return self.tokenizer.encode_in(text, language and language.removeprefix("<|").removesuffix("|>"))

    def _value(self, name: str, values: Mapping[str, Any]) -> str:
        """What fills a slot."""
        columns, default = self._columns[name], self.config.slots[name].default
        found = next((values[column] for column in columns if values.get(column) is not None), default)
        if found is None:
            raise DataError(f"the prompt's `{name}` must be set by {' or '.join(f'`{c}`' for c in columns)}.")
        return str(found)

    def _mark(self, name: str, values: Mapping[str, Any]) -> str:
        """The mark that fills a slot."""
        value, words = self._value(name, values), self.config.slots[name].words
        choices = [mark for mark in self.marks if mark in words] if words else self._languages
        found = (mark for mark in choices if value == mark or value.lower() in words.get(mark, (mark[2:-2].lower(),)))
        if mark := next(found, None):
            return mark
        allowed = [words[mark][0] if mark in words else mark[2:-2] for mark in choices]
        raise DataError(
            f"the prompt's `{name}` must be one of {', '.join(allowed)}, but is {value!r} instead."
            f"{nearest(value, allowed)}"
        )
