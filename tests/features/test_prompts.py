"""Prompts: marks before a text, from columns, callers or defaults."""

import pytest

from anemone.config import decode, encode
from anemone.errors import ConfigError, DataError
from anemone.features.prompts import PromptConfig
from anemone.features.tokenizers import CharactersConfig

WORDS = {"words": {"<|en|>": ["en"], "<|fr|>": ["fr", "french"]}}
LETTERS = CharactersConfig(characters=(" ", "a", "b")).build()
LANGUAGES = {"source_lang": {"columns": ["source_lang", "lang"], "default": "en", **WORDS}}
CANARY = {"format": "canary", "slots": {**LANGUAGES, "target_lang": {"default": "en", **WORDS}}}


def written(prompted, values, text="ab"):
    tokens, length = prompted.of(text, values)
    return "".join(prompted.pieces[i] for i in tokens), length


def test_a_prompt_is_filled_from_columns_and_defaults():
    prompted = decode(PromptConfig, CANARY).build(LETTERS)
    begin = "<|startoftranscript|>"
    assert written(prompted, {}) == (f"{begin}<|en|><|transcribe|><|en|><|pnc|>ab<|endoftext|>", 5)
    row = {"lang": "FRENCH", "target_lang": "<|en|>", "pnc": False, "taskname": "ast", "task": None}
    assert written(prompted, row)[0] == f"{begin}<|fr|><|translate|><|en|><|nopnc|>ab<|endoftext|>"
    assert {"lang", "source_lang", "target_lang", "pnc", "task", "taskname"} == set(prompted.columns)


def test_marks_vanish_when_a_text_is_read_back():
    prompted = decode(PromptConfig, CANARY).build(LETTERS)
    assert prompted.decode(prompted.encode("ab a")) == "ab a"
    assert prompted.pieces[prompted.end] == "<|endoftext|>"
    assert sum(prompted.sizes[3:]) == 0 and len(prompted.sizes) == prompted.vocab_size


def test_a_caller_asks_by_slots():
    prompted = decode(PromptConfig, CANARY).build(LETTERS)
    asked = prompted.asked("fr", {"pnc": True, "target_lang": "en"})
    assert asked == prompted.prompt({"source_lang": "fr", "target_lang": "en", "pnc": "yes"})
    with pytest.raises(ConfigError, match=r"`pncc` is not a slot of the model's prompt\. Did you mean `pnc`"):
        prompted.asked(None, {"pncc": 1})
    with pytest.raises(ConfigError, match="`source_lang` must be one of en, fr, but is 'de' instead"):
        prompted.asked("de", {})
    with pytest.raises(ConfigError, match="`task` must be one of asr, ast, but is 'sing' instead"):
        prompted.asked("fr", {"task": "sing"})


def test_the_second_format_begins_with_a_context():
    slots = {name: {"default": "en", **WORDS} for name in ("source_lang", "target_lang")}
    prompted = decode(PromptConfig, {"format": "canary2", "slots": slots, "defaults": {"pnc": "no"}}).build(LETTERS)
    marks = "<|startoftranscript|><|emo:undefined|><|en|><|en|><|nopnc|><|itn|><|notimestamp|><|nodiarize|>"
    assert written(prompted, {"decodercontext": "ba", "itn": "1"}) == (
        f"<|startofcontext|>ba{marks}ab<|endoftext|>",
        11,
    )


def test_a_tag_is_learned_with_the_text():
    prompted = decode(PromptConfig, {"format": "language_tag", "slots": {"lang": WORDS}}).build(LETTERS)
    assert written(prompted, {"lang": "fr"}) == ("<|fr|>ab", 0) and prompted.end is None
    assert prompted.language_of(prompted.of("a", {"lang": "en"})[0]) == "en"
    with pytest.raises(DataError, match="`lang` must be set by `lang`"):
        prompted.encode("ab")


def test_any_template_can_be_declared():
    tree = {"template": ["<|a|>", "{style}"], "slots": {"style": {"words": {"<|x|>": ["plain"]}}}, "end": "<|b|>"}
    prompted = decode(PromptConfig, tree).build(LETTERS)
    assert written(prompted, {"style": "plain"}) == ("<|a|><|x|>ab<|b|>", 2)
    assert decode(PromptConfig, encode(decode(PromptConfig, tree))) == decode(PromptConfig, tree)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="`template` must be of slots out of"):
        decode(PromptConfig, {"template": ["{colour}"]})
    with pytest.raises(ConfigError, match="`defaults` must be of slots out of"):
        decode(PromptConfig, {"format": "canary", "defaults": {"colour": "red"}})
    with pytest.raises(ConfigError, match="which the tokenizer lacks"):
        decode(PromptConfig, {"format": "canary", "grow": False}).build(LETTERS)
