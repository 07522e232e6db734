"""Characters with a mark between words."""

import pytest

from anemone.config import ConfigError
from anemone.errors import DataError
from anemone.features.delimited import DelimitedConfig

UNITS = ("<s>", "</s>", "<unk>", "|", "a", "b", "'")


def test_a_space_is_the_delimiter_and_comes_back_as_a_space():
    tokenizer = DelimitedConfig(characters=UNITS).build()
    assert tokenizer.encode("ab a'b") == [4, 5, 3, 4, 6, 5]
    assert tokenizer.decode([3, 4, 5, 3, 4, 6, 5, 3]) == "ab a'b"
    assert tokenizer.vocab_size == 7


def test_unknown_characters_are_refused_or_written_as_the_unknown_unit():
    with pytest.raises(DataError, match=r"has \['c'\], which the tokenizer does not know"):
        DelimitedConfig(characters=UNITS).build().encode("abc")
    assert DelimitedConfig(characters=UNITS, unknown="piece").build().encode("abc") == [4, 5, 2]


def test_text_may_be_written_in_lower_case():
    assert DelimitedConfig(characters=UNITS, lowercase=True).build().encode("A B") == [4, 3, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delimiter": "_"}, "`delimiter` must be one of `characters`, but is '_' instead"),
        ({"characters": (*UNITS, " ")}, "`characters` must be without white space"),
        ({"characters": (*UNITS, "a")}, "`characters` must be different from each other"),
        ({"unknown": "piece", "unknown_piece": "?"}, "`unknown_piece` must be one of `characters`"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DelimitedConfig(**{"characters": UNITS, **settings})
