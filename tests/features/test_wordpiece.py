"""WordPiece: words cut and put together again; equality with golden numbers is in test_tokenizers."""

from anemone.features.wordpiece import WordPieceConfig, words

VOCABULARY = b"[UNK]\r\n[SEP]\nab\n##c\n##cd\nb\n,\n"


def test_words_are_cut_as_bert_does():
    assert words("a-b, c!", lowercase=False) == ["a", "-", "b", ",", "c", "!"]
    assert words("日本 x\tÉté\u200b", lowercase=True) == ["日", "本", "x", "ete"]


def test_the_longest_pieces_are_taken_from_the_left_and_marks_tell_what_joins():
    tokenizer = WordPieceConfig().build({"vocab.txt": VOCABULARY})
    assert tokenizer.pieces == ["[UNK]", "[SEP]", "ab", "##c", "##cd", "b", ","]
    assert tokenizer.encode("abcd abc, b cd") == [2, 4, 2, 3, 6, 5, 0]
    assert tokenizer.decode([2, 4, 2, 3, 6, 5, 0, 1]) == "abcd abc, b"


def test_a_word_that_is_too_long_is_unknown():
    tokenizer = WordPieceConfig().build({"vocab.txt": b"[UNK]\na\n##a\n"})
    assert tokenizer.encode("a" * 100) == [1] + [2] * 99
    assert tokenizer.encode("a" * 101) == [0]


def test_lower_case_also_drops_accents():
    tokenizer = WordPieceConfig(lowercase=True).build({"vocab.txt": VOCABULARY})
    assert tokenizer.encode("ÀBC") == tokenizer.encode("abc") == [2, 3]
