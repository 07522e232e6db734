"""Several tokenizers in one: each language has its own units, and every unit its language."""

from pathlib import Path

import pytest

from anemone.config import decode, encode
from anemone.errors import ConfigError, DataError
from anemone.features.aggregate import AggregateConfig
from anemone.features.tokenizers import SentencePieceConfig

MODEL = Path(__file__).parents[1] / "golden" / "parity" / "features" / "bpe_64.model"
CHARACTERS = [" ", "d", "a", "s"]
TREE = {
    "members": [
        {"language": "en-US", "tokenizer": {"kind": "sentencepiece", "path": str(MODEL)}},
        {"language": "ger", "tokenizer": {"kind": "characters", "characters": CHARACTERS}},
    ]
}


def test_units_stand_one_after_the_other():
    both, one = decode(AggregateConfig, TREE).build(), SentencePieceConfig(path=str(MODEL)).build()
    assert both.vocab_size == one.vocab_size + 4 and both.pieces == [*one.pieces, *CHARACTERS]
    assert both.encode_in("he was", "en-US") == both.encode_in("he was", "en") == one.encode("he was")
    assert both.encode_in("das", "ger") == [one.vocab_size + i for i in (1, 2, 3)]


def test_texts_of_several_languages_are_read_back():
    both = decode(AggregateConfig, TREE).build()
    english, german = both.encode_in("he was", "en"), both.encode_in("das da", "ger")
    assert both.decode(english) == "he was" and both.decode(german) == "das da"
    assert both.decode([*german, *english]) == "das da he was"
    assert both.language_of([*german, *english[:1]]) == "ger" and both.language_of([]) is None


def test_an_archive_s_files_go_to_their_members():
    both = decode(AggregateConfig, TREE).build()
    assert list(both.files()) == ["en-US.tokenizer.model"]
    bare = {"members": [{**TREE["members"][0], "tokenizer": "sentencepiece"}, TREE["members"][1]]}
    assert decode(AggregateConfig, bare).build(both.files()).pieces == both.pieces
    assert decode(AggregateConfig, encode(decode(AggregateConfig, TREE))) == decode(AggregateConfig, TREE)


def test_an_unknown_language_is_refused():
    with pytest.raises(DataError, match="one of en-US, ger, but is 'fr' instead"):
        decode(AggregateConfig, TREE).build().encode_in("oui", "fr")
    with pytest.raises(DataError, match="but is None instead"):
        decode(AggregateConfig, TREE).build().encode("oui")
    assert decode(AggregateConfig, {**TREE, "default": "ger"}).build().encode("a") == [66]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": []}, "`members` must be at least one"),
        ({"members": [TREE["members"][0]] * 2}, "`members` must be of different languages"),
        ({"default": "fr"}, "`default` must be one of the languages, but is 'fr' instead"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        decode(AggregateConfig, {**TREE, **change})
