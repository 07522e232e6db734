"""Texts are rewritten as the settings say, and once more changes nothing."""

import pickle

import pytest

from anemone.config import decode
from anemone.errors import ConfigError
from anemone.features.text import TextConfig, plain

SAID = "  “Ça va?” — Señor  O\u2019Neil\u2019s ﬁle, No. 5: 50% "


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, "ça va señor o'neil's file no 5 50"),
        ({"case": "keep", "punctuation": "keep"}, "“Ça va?” — Señor O'Neil's file, No. 5: 50%"),
        ({"case": "upper", "kept": ""}, "ÇA VA SEÑOR ONEILS FILE NO 5 50"),
        ({"marks": "drop", "unicode": "keep"}, "ca va senor o'neil's ﬁle no 5 50"),
        ({"kept": "'%?"}, "ça va? señor o'neil's file no 5 50%"),
        ({"replace": {"No.": "number"}, "kept": "'\u2019"}, "ça va señor o\u2019neil\u2019s file number 5 50"),
    ],
)
def test_texts_are_written_as_the_settings_say(settings, wanted):
    write = decode(TextConfig, settings).build()
    assert write(SAID) == wanted
    assert settings.get("replace") or write(wanted) == wanted
    assert pickle.loads(pickle.dumps(write))(SAID) == wanted


def test_marks_can_be_taken_apart():
    assert decode(TextConfig, {"unicode": "nfd"}).build()("é") == "e\u0301"


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="`kept` must be signs of punctuation, but is 'a' instead"):
        TextConfig(kept="a")
    with pytest.raises(ConfigError, match="`replace` must be of texts that are not empty"):
        TextConfig(replace={"": "x"})


@pytest.mark.parametrize(
    ("text", "bare"),
    [("«Où?» — là…", "où là"), ("你好\uff0c世界\u3002", "你好 世界"), ("'tis 5 o\u2019clock", "tis 5 o'clock")],
)
def test_plain_text_of_other_scripts(text, bare):
    assert plain(text) == bare
