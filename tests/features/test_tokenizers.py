"""Tokenizers: equal to golden numbers and texts, whole again from their files, plain about what they do not know."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anemone.config import decode, load_class
from anemone.errors import ConfigError, DataError
from anemone.features.tokenizers import (
    TOKENIZERS,
    BytesConfig,
    CharactersConfig,
    SentencePieceConfig,
)
from anemone.features.wordpiece import WordPieceConfig

GOLDEN = Path(__file__).parents[1] / "golden/parity/features"
ROWS = json.loads((GOLDEN / "tokens.json").read_text("utf-8"))
LETTERS = tuple(" abcdefghijklmnopqrstuvwxyz'")


def build(name, **options):
    if name == "characters":
        return CharactersConfig(characters=LETTERS, **options).build()
    if name.startswith("wordpiece"):
        return WordPieceConfig(path=str(GOLDEN / f"{name}.txt"), **options).build()
    return SentencePieceConfig(path=str(GOLDEN / f"{name}.model"), **options).build()


NAMES = ["characters", "bpe_64", "unigram_96", "wordpiece_64", "wordpiece_77"]


@pytest.mark.parametrize("name", NAMES)
def test_numbers_and_texts_equal_the_golden_ones(name):
    tokenizer = build(name, **({"lowercase": True, "unknown": "drop"} if name == "characters" else {}))
    for row in ROWS[name]:
        assert tokenizer.encode(row["text"]) == row["ids"], row["text"]
        if "back" in row:
            assert tokenizer.decode(row["ids"]) == row["back"], row["text"]


@pytest.mark.parametrize("name", NAMES)
def test_a_tokenizer_is_whole_again_from_its_settings_and_files_and_survives_pickling(name):
    tokenizer = build(name)
    kind = {"c": "characters", "w": "wordpiece"}.get(name[0], "sentencepiece")
    tree = {"characters": list(LETTERS)} if kind == "characters" else {"path": "a/file/that/is/gone"}
    again = decode(load_class(TOKENIZERS[kind]), tree).build(tokenizer.files())
    for other in (again, pickle.loads(pickle.dumps(tokenizer))):
        assert other.pieces == tokenizer.pieces and other.files() == tokenizer.files()
        assert other.encode("the king was here") == tokenizer.encode("the king was here")


@pytest.mark.parametrize(
    ("name", "size"), [("characters", 28), ("bpe_64", 64), ("unigram_96", 96), ("wordpiece_64", 64)]
)
def test_there_is_one_piece_for_each_number_and_no_blank(name, size):
    tokenizer = build(name)
    assert tokenizer.vocab_size == len(tokenizer.pieces) == size
    assert all(isinstance(tokenizer.decode([i]), str) for i in range(size))
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


@settings(deadline=None)
@given(st.lists(st.sampled_from(LETTERS[1:27]), min_size=1, max_size=12), st.sampled_from(NAMES))
def test_a_word_of_known_letters_comes_back(letters, name):
    word = "".join(letters)
    assert build(name).decode(build(name).encode(word)) == word


@settings(deadline=None)
@given(st.text(max_size=30), st.sampled_from(NAMES))
def test_no_text_breaks_a_tokenizer_that_drops_what_it_does_not_know(text, name):
    tokenizer = build(name, unknown="drop")
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert isinstance(tokenizer.decode(ids), str)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_unknown_characters_are_refused_by_name_or_dropped_as_asked(name):
    with pytest.raises(
        DataError, match=r"the text 'a 42 b' has \[.*'4.* does not know.*set `task\.tokenizer\.unknown` to `drop`"
    ):
        build(name, unknown="refuse").encode("a 42 b")
    dropped = build(name, unknown="drop")
    assert dropped.decode(dropped.encode("a 42 b")).split() == ["a", "b"]


@settings(deadline=None)
@given(st.text())
def test_any_text_comes_back_from_its_bytes(text):
    tokenizer = BytesConfig().build()
    ids = tokenizer.encode(text)
    assert tokenizer.decode([*ids, tokenizer.end]) == text and tokenizer.end not in ids
    assert sum(tokenizer.sizes[i] for i in [*ids, tokenizer.end]) == len(text.encode())


def test_bytes_that_are_no_text_are_shown_as_such():
    tokenizer = BytesConfig().build()
    assert tokenizer.vocab_size == len(tokenizer.pieces) == len(tokenizer.sizes) == 256
    assert tokenizer.decode([104, 105, 0xC3]) == "hi\ufffd" and tokenizer.files() == {}


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_the_bytes_of_a_text(name):
    """A space before the first word is counted by sub-words, as their pieces say one."""
    tokenizer = build(name, unknown="refuse")
    for text in ("the king was here", "a"):
        extra = 0 if name == "characters" else 1
        assert sum(tokenizer.sizes[i] for i in tokenizer.encode(text)) == len(text) + extra
    assert len(tokenizer.sizes) == tokenizer.vocab_size
    assert all(
        tokenizer.sizes[i] == 0 for i, piece in enumerate(tokenizer.pieces) if piece in {"<unk>", "[SEP]", "</s>"}
    )
    assert tokenizer.end is None or tokenizer.pieces[tokenizer.end] in {"</s>", "[SEP]"}


def test_a_long_text_is_refused_in_few_words():
    with pytest.raises(DataError) as caught:
        build("characters").encode("a" * 1000 + "7")
    assert len(str(caught.value)) < 450


def test_lower_case_is_advised_where_it_would_help():
    with pytest.raises(DataError, match=r"has \['H'\].*or `task\.tokenizer\.lowercase`\."):
        build("characters").encode("He")
    assert build("characters", lowercase=True).encode("He") == [8, 5]


def test_an_unknown_piece_stands_for_unknown_characters_where_asked():
    tokenizer = CharactersConfig(characters=(*"ab ", "<unk>"), unknown="piece").build()
    assert tokenizer.encode("a€ b") == [0, 3, 2, 1]
    assert tokenizer.encode("a<unk>") == [0, 3]
    assert build("bpe_64", unknown="piece").encode("€") == [36, 0]


@pytest.mark.parametrize(
    ("config", "files", "message"),
    [
        (SentencePieceConfig(), {}, r"`path` must be the path of a file to read as `tokenizer\.model`, but is None"),
        (SentencePieceConfig(path="no/such.model"), {}, r"`path` must be the path of a file.*but is 'no/such\.model'"),
        (SentencePieceConfig(), {"tokenizer.model": b"junk"}, r"`tokenizer\.model` must be a SentencePiece model"),
        (SentencePieceConfig(), {"tokenizer.model": b""}, r"`tokenizer\.model` must be a SentencePiece model"),
        (WordPieceConfig(), {}, r"`path` must be the path of a file to read as `vocab\.txt`, but is None"),
        (WordPieceConfig(), {"vocab.txt": b"\xff\xfe"}, r"`vocab\.txt` must be text in UTF-8"),
        (
            WordPieceConfig(),
            {"vocab.txt": b"a\nb\n"},
            r"`vocab\.txt` must be a list of pieces with `\[UNK\]` among them",
        ),
        (WordPieceConfig(), {"vocab.txt": b"[UNK]\na\na\n"}, r"`vocab\.txt` must be a list of different pieces"),
    ],
    ids=str,
)
def test_a_missing_or_broken_file_is_refused(config, files, message):
    with pytest.raises(ConfigError, match=message):
        config.build(files)


def test_impossible_characters_are_refused():
    with pytest.raises(ConfigError, match=r"`characters` must be different from each other.*but is \['a'\] instead\."):
        CharactersConfig(characters=("a", "b", "a"))
    with pytest.raises(ConfigError, match=r"`characters` must be at least one"):
        CharactersConfig(characters=())
    with pytest.raises(ConfigError, match=r"`unknown_piece` must be one of `characters`, but is '<unk>' instead\."):
        CharactersConfig(characters=("a",), unknown="piece")
