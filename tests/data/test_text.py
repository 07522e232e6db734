"""Texts become tokens: all of them, in bounded memory, once; and what cannot be read is named."""

import json
import multiprocessing
import os
import tracemalloc

import numpy as np
import pytest

from anemone.data import text
from anemone.data.text import read_corpus
from anemone.errors import DataError
from anemone.features.tokenizers import BytesConfig, CharactersConfig

BYTES = BytesConfig().build()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the cache."""
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def write(tmp_path, cache):
    """Writes a file and returns its path."""

    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def read(*paths, tokenizer=BYTES, identity="bytes", field="text"):
    return read_corpus(paths, tokenizer, identity=identity, field=field)


def lines(*texts):
    return "\n".join(json.dumps({"text": text}) for text in texts)


def test_documents_stand_between_marks(write):
    corpus = read(write("a.txt", "one\ntwo"), write("b.jsonl", lines("three", "vier") + "\n\n" + lines("fünf")))
    whole = b"\xffone\ntwo\xffthree\xffvier\xff" + "fünf".encode() + b"\xff"
    assert corpus.tokens.tobytes() == whole and corpus.tokens.dtype == np.uint8 and corpus.marked
    assert corpus.starts.tolist() == [0, 8, 14, 19] and not corpus.problems
    origins = [corpus.origin(token)[1] for token in (0, 7, 8, 14, 19, 24)]
    assert origins == [1, 1, 1, 2, 4, 4] and corpus.origin(9)[0].endswith("b.jsonl")


def test_without_a_mark_documents_stand_side_by_side(write):
    tokenizer = CharactersConfig(characters=tuple("abc")).build()
    corpus = read(write("a.jsonl", lines("ab", "c")), tokenizer=tokenizer)
    assert corpus.tokens.tolist() == [0, 1, 2] and corpus.starts.tolist() == [0, 2] and not corpus.marked


@pytest.mark.parametrize(("size", "dtype"), [(256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_tokens_are_as_wide_as_the_vocabulary_asks_for(write, size, dtype):
    class Wide:
        vocab_size, end = size, None

        def encode(self, text):
            return [size - 1] * len(text)

    corpus = read(write("a.txt", "abc"), tokenizer=Wide())
    assert corpus.tokens.dtype == dtype and corpus.tokens.tolist() == [size - 1] * 3


def test_bad_documents_are_named_and_the_good_ones_survive(write):
    rows = [
        lines("good"),
        "{",
        '["a"]',
        '{"txt": "a"}',
        '{"text": 3}',
        lines(""),
        '{"text": "\\ud800"}',
        '{"text": "caf\u00e9"}',
        lines("fine"),
    ]
    content = "\n".join(rows).encode().replace("caf\u00e9".encode(), b"caf\xe9")
    bad = write("bad.txt", b"Spanish: ma\xf1ana and more")
    corpus = read(bad, write("a.jsonl", content), write("empty.txt", ""))
    assert corpus.tokens.tobytes() == b"\xffgood\xfffine\xff" and corpus.starts.tolist() == [0, 5]
    said = [str(problem) for problem in corpus.problems]
    expected = [
        r"bad.txt:1: must be text in UTF-8, but has an invalid continuation byte at byte 11",
        r"a.jsonl:2: is not JSON: Expecting property name enclosed in double quotes at character",
        r"a.jsonl:3: must be an object in braces, but is list instead",
        r"a.jsonl:4: lacks `text`; it has `txt`",
        r"a.jsonl:5: `text` must be a string, but is int instead",
        r"a.jsonl:6: has no text",
        r"a.jsonl:7: `text` is not Unicode text: surrogates not allowed at character 0",
        r"a.jsonl:8: must be text in UTF-8, but has an",
        r"empty.txt:1: has no text",
    ]
    assert len(said) == len(expected)
    for found, words in zip(said, expected, strict=True):
        assert words in found
    assert [str(problem) for problem in read(bad).problems] == said[:1]


def test_a_text_that_the_tokenizer_refuses_is_named_without_all_of_it(write):
    tokenizer = CharactersConfig(characters=tuple("abc ")).build()
    corpus = read(write("a.jsonl", lines("ab" * 10_000 + "z", "abc")), tokenizer=tokenizer)
    (problem,) = corpus.problems
    assert "which the tokenizer does not know" in problem.cause and len(problem.cause) < 600
    assert corpus.tokens.tolist() == [0, 1, 2]


def test_another_key_may_hold_the_text_and_a_mark_of_byte_order_is_none(write):
    path = write("a.jsonl", b"\xef\xbb\xbf" + b'{"body": "one"}\n{"body": "two"}')
    assert read(path, field="body").tokens.tobytes() == b"\xffone\xfftwo\xff"
    assert read(write("a.txt", b"\xef\xbb\xbfone")).tokens.tobytes() == b"\xffone\xff"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_the_size_of_pieces_changes_nothing(write, monkeypatch, size):
    content = "Ein Käfer krabbelt.\n\nÜber die Straße? 🐙 unmöglich \n ganz" * 3
    monkeypatch.setattr(text, "PIECE", size)
    corpus = read(write("a.txt", content), write("a.jsonl", lines(content)))
    whole = b"\xff" + content.encode() + b"\xff"
    assert corpus.tokens.tobytes() == whole + whole[1:]
    bad = write("b.txt", content.encode() + b"\xff" + content.encode())
    assert f"at byte {len(content.encode())}" in read(bad).problems[0].cause


def test_pieces_end_with_a_line_or_a_word(monkeypatch):
    monkeypatch.setattr(text, "PIECE", 10)
    pieces = list(text._cut(["one two\nthree", " four fivesixseveneight"]))
    assert pieces == ["one two\n", "three", " four", " fivesixse", "veneight"]


def test_a_large_file_needs_little_memory(write, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 1 << 15)
    path = write("large.txt", b"all work and no play\n" * 200_000)
    tracemalloc.start()
    corpus = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(corpus.tokens) == path.stat().st_size + 2 > 4_000_000
    assert peak < 1 << 20  # a list of numbers for a piece is the most


def test_tokens_are_found_again_by_content_and_tokenizer_wherever_the_file_lies(write, cache, monkeypatch):
    path = write("a.txt", "some text")
    first = read(path)
    write("elsewhere.txt", "some text")
    with monkeypatch.context() as patch:
        patch.setattr(text, "_written", None)  # nothing is tokenised again
        again = read(path.with_name("elsewhere.txt"))
    assert np.array_equal(first.tokens, again.tokens) and again.origin(3)[0].endswith("elsewhere.txt")
    assert again.fingerprint == first.fingerprint
    upper = CharactersConfig(characters=tuple("abcdefghijklmnopqrstuvwxyz ")).build()
    assert read(path, tokenizer=upper, identity="letters").tokens[0] == ord("s") - ord("a")
    write("a.txt", "other text")
    assert read(path).tokens.tobytes() == b"\xffother text\xff" and read(path).fingerprint != first.fingerprint
    assert not list(cache.glob("*.tmp"))


@pytest.mark.parametrize("harm", ["cut", "missing", "notes", "emptied"])
def test_a_broken_file_of_the_cache_is_made_again(write, cache, harm):
    path = write("a.txt", "some text")
    read(path)
    (folder,) = (entry for entry in cache.iterdir() if entry.is_dir())
    tokens, notes = folder / "tokens.bin", folder / "notes.json"
    {
        "cut": lambda: os.truncate(tokens, 4),
        "missing": (folder / "starts.bin").unlink,
        "notes": lambda: notes.write_text("{}"),
        "emptied": lambda: os.truncate(tokens, 0),
    }[harm]()
    assert read(path).tokens.tobytes() == b"\xffsome text\xff"


def test_a_draft_is_removed_when_something_breaks_off(write, cache, monkeypatch):
    class Broken:
        vocab_size, end = 256, None

        def encode(self, text):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(write("a.txt", "some text"), tokenizer=Broken())
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]
    assert len(read(write("a.txt", "some text")).tokens) == 11


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(write, tmp_path, monkeypatch):
    path = write("a.txt", "some text")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be kept in `.*file/tokens`.*ANEMONE_CACHE"):
        read(path)


def _reader(path, results):
    results.put(read(path).tokens.tobytes())


def test_processes_that_start_together_tokenise_once(write, cache):
    path = write("a.txt", "word " * 200_000)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_reader, args=(path, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {b"\xff" + b"word " * 200_000 + b"\xff"}
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 1
