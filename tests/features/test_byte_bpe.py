"""Byte-level pair encoding: any text can be written and read back; pieces, joins and marks as GPT-2 has them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemone.config import ConfigError
from anemone.features.byte_bpe import SHOWN, ByteBPEConfig, cut

MERGES = ["Ġ t", "Ġt h", "Ġth e", "t h", "o n", "on e"]


def tree(**changes):
    units = [*SHOWN, *("".join(pair.split()) for pair in MERGES)]
    added = [{"id": 262, "content": "<|endoftext|>", "special": True}, {"id": 263, "content": "<|0.00|>"}]
    return {
        "added_tokens": [*added, {"id": 264, "content": "noise"}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {unit: n for n, unit in enumerate(units)}, "merges": MERGES},
    } | changes


def build(**changes):
    return ByteBPEConfig().build({"tokenizer.json": json.dumps(tree(**changes)).encode()})


@given(st.text())
def test_any_text_is_written_and_read_back(text):
    tokenizer = build()
    assert tokenizer.decode(tokenizer.encode(text)) == text.encode("utf-8", "replace").decode()
    assert "".join(cut(text)) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("It's 12 o'clock,  sir!", ["It", "'s", " 12", " o", "'", "clock", ",", " ", " sir", "!"]),
        ("they'LL we'll", ["they", "'", "LL", " we", "'ll"]),
        ("x²½Ⅷ٣", ["x", "²½Ⅷ٣"]),
        ("naïve Straße 你好", ["naïve", " Straße", " 你好"]),
        ("a\n\n b\u3000c\x1cd", ["a", "\n\n", " b", "\u3000", "c", "\x1c", "d"]),
        ("  ", ["  "]),
    ],
)
def test_texts_are_cut_as_their_patterns_do(text, pieces):
    assert cut(text) == pieces


def test_pairs_are_joined_in_the_order_in_which_they_were_learned():
    tokenizer = build()
    assert [tokenizer.pieces[n] for n in tokenizer.encode("the the one")] == ["th", "e", "Ġthe", "Ġ", "one"]


def test_marks_stand_for_no_text_and_added_words_for_themselves():
    tokenizer = build()
    assert tokenizer.end == 262
    assert tokenizer.decode([262, 263, tokenizer.encode("e")[0], 264]) == "enoise"
    assert tokenizer.encode("noise") == [264]
    assert 262 not in tokenizer.encode("<|endoftext|>")
    assert [tokenizer.sizes[n] for n in (262, 263, 264, 258)] == [0, 0, 5, 4]


def test_half_of_a_character_is_a_replacement_character():
    tokenizer = build()
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


def test_a_text_may_be_begun_with_a_space():
    tokenizer = build(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True})
    assert tokenizer.encode("the") == tokenizer.encode(" the") == [258]


def test_numbers_that_nothing_has_get_a_name():
    assert build(added_tokens=[{"id": 300, "content": "x"}]).pieces[299] == "<299>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "NFC"}}, "`tokenizer.json: normalizer` must be null to be read"),
        ({"pre_tokenizer": None}, "`tokenizer.json: pre_tokenizer` must be a group of settings, but is None"),
        ({"decoder": {"type": "Metaspace"}}, "`tokenizer.json: decoder.type` must be 'ByteLevel' to be read"),
        ({"model": {"type": "WordPiece"}}, "`tokenizer.json: model.type` must be 'BPE' or None to be read"),
        (
            {"model": tree()["model"] | {"dropout": 0.1}},
            "`tokenizer.json: model.dropout` must be None or 0.0 to be read",
        ),
        ({"model": tree()["model"] | {"merges": ["t q"]}}, r"model.merges` must be pairs .*, but is \('t', 'q'\)"),
        ({"model": tree()["model"] | {"merges": [3]}}, r"model.merges` must be pairs .*, but is \(\)"),
        ({"model": tree()["model"] | {"vocab": {"a": -1}}}, "model.vocab` must be a mapping from unit to a number"),
        ({"model": tree()["model"] | {"vocab": {"a": 1}}}, "model.vocab` must be with a unit for each byte"),
        ({"added_tokens": [{"id": "1", "content": "a"}]}, "added_tokens` must be a list of tokens with `id`"),
        ({"added_tokens": [{"id": 10**12, "content": "a"}]}, "added_tokens` must be a list of tokens with `id`"),
    ],
)
def test_files_that_cannot_be_had_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**changes)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_files_that_are_none_are_refused(data):
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        ByteBPEConfig().build({"tokenizer.json": data})
