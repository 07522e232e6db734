"""Tokenizers made of texts: the same files each time, they read back, and their settings hold."""

import pytest

from anemone.config import decode
from anemone.errors import ConfigError
from anemone.features.tokenizer_training import TokenizerTrainingConfig, train_tokenizer, wordpiece
from anemone.features.tokenizers import SentencePieceConfig
from anemone.features.wordpiece import WordPieceConfig

LINES = [
    "She sells sea shells by the sea shore.",
    "Peter Piper picked a peck of pickled peppers!",
    "How much wood would a woodchuck chuck?",
    "the thirty-three thieves thought that they thrilled the throne",
] * 5


def made(**settings):
    return train_tokenizer(LINES, decode(TokenizerTrainingConfig, settings))


@pytest.mark.parametrize(("kind", "size"), [("bpe", 70), ("unigram", 50), ("char", 40)])
def test_sentencepiece_reads_back_and_is_the_same_each_time(kind, size):
    files = made(kind=kind, vocab_size=size)
    assert files == made(kind=kind, vocab_size=size)
    tokenizer = SentencePieceConfig().build({"tokenizer.model": files["tokenizer.model"]})
    assert tokenizer.vocab_size == (size if kind != "char" else len(set("".join(LINES)) - {" "}) + 2)
    assert all(tokenizer.decode(tokenizer.encode(line)) == line for line in LINES)
    rows = files["tokenizer.vocab"].decode().splitlines()
    assert [row.partition("\t")[0] for row in rows] == tokenizer.pieces
    pieces = files["vocab.txt"].decode().splitlines()
    spelt = [piece.removeprefix("\u2581") if piece[0] == "\u2581" else f"##{piece}" for piece in tokenizer.pieces]
    assert pieces == [piece for piece in spelt if piece not in ("", "##<unk>")]


def test_tags_are_never_cut_and_control_marks_never_read():
    files = made(vocab_size=80, special=["<en>", "<fr>"], control=["<pad>"], end=True)
    tokenizer = SentencePieceConfig().build(files)
    assert tokenizer.pieces[:5] == ["<unk>", "</s>", "<pad>", "<en>", "<fr>"] and tokenizer.end == 1
    ids = tokenizer.encode("<en> the <pad>")
    assert tokenizer.pieces.index("<en>") in ids and tokenizer.pieces.index("<pad>") not in ids
    assert tokenizer.sizes[2] == 0


def test_bytes_stand_for_what_is_no_piece():
    plain, with_bytes = (
        SentencePieceConfig().build(made(vocab_size=size, byte_fallback=on)) for size, on in ((60, False), (330, True))
    )
    assert plain.decode(plain.encode("the é")) != "the é"
    assert with_bytes.decode(with_bytes.encode("the é")) == "the é"


def test_texts_are_rewritten_first():
    files = made(kind="char", vocab_size=60, text={"case": "lower", "punctuation": "drop"})
    pieces = SentencePieceConfig().build(files).pieces
    assert "S" not in pieces and "?" not in pieces and "s" in pieces
    kept = made(kind="char", vocab_size=60, text={"case": "keep", "punctuation": "keep"})
    assert {"S", "?"} <= set(SentencePieceConfig().build(kept).pieces)


def test_coverage_leaves_out_the_rarest():
    rare = train_tokenizer([*LINES * 20, "¤"], TokenizerTrainingConfig(kind="char", vocab_size=60, coverage=0.999))
    assert "¤" not in SentencePieceConfig().build(rare).pieces


def test_wordpiece_joins_the_most_frequent_pairs():
    assert wordpiece(["ab ab abc"], 9)[5:] == ["##b", "##c", "a", "ab"]
    files = made(kind="wordpiece", vocab_size=90, special=["<en>"])
    tokenizer = WordPieceConfig().build(files)
    assert tokenizer.vocab_size == 90 and tokenizer.pieces[5] == "<en>" and files.keys() == {"vocab.txt"}
    assert tokenizer.decode(tokenizer.encode("sea shells")) == "sea shells"
    assert files == made(kind="wordpiece", vocab_size=90, special=["<en>"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 5000}, r"`vocab_size` must be at most \d+ for these texts"),
        (
            {"kind": "unigram", "vocab_size": 5000},
            r"`vocab_size` must be at most \d+ for these texts",
        ),
        ({"vocab_size": 8}, r"`vocab_size` must be a number that these texts allow"),
        ({"kind": "wordpiece", "vocab_size": 20}, r"`vocab_size` must be \d+ or more, for marks and characters"),
        ({"kind": "wordpiece", "vocab_size": 9999}, r"`vocab_size` must be at most \d+ for these texts"),
        ({"special": ["<a>", "<a>"]}, r"`special` must be of different pieces"),
        ({"kind": "wordpiece", "byte_fallback": True}, r"`kind` must be one of SentencePiece's"),
    ],
)
def test_what_cannot_be_made_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        made(**settings)


def test_no_text_is_refused():
    with pytest.raises(ConfigError, match="`texts` must be at least one that is not empty"):
        train_tokenizer(["", "  "], TokenizerTrainingConfig())
