"""Files of text to one file of tokens, piece by piece: memory stays flat, whatever the size of a corpus.

It lies in the cache, memory-mapped by whoever reads it, under a hash of the texts, the tokenizer and the settings:

    tokens.bin      all tokens, one document after the other, as uint8, uint16 or uint32 by the size of the vocabulary
    starts.bin      int64: where each document begins
    origins.bin     int64 pairs: number of the file and line of each document
    notes.json      counts, problems

Where the tokenizer has a unit that ends a document, one stands before the first document and after each:
``end text end text end``. A document begins with the one before it, so that all of its text, and its end, is predicted.
"""

import codecs
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from anemone.cache import cache_folder
from anemone.data.files import digest
from anemone.data.problems import Problem
from anemone.errors import DataError

VERSION = 1  # of the layout; another number makes all cached files unknown
PIECE = 1 << 20  # bytes that are read, and about as many characters that are tokenised, at a time
LINES, WHOLE = (".jsonl", ".json"), (".txt",)


class Tokenizer(Protocol):
    """What text is cut by; see `anemone.features.tokenizers`."""

    vocab_size: int
    end: int | None

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text; raises DataError where it cannot."""


class Corpus:
    """The tokens of some files, and where each document comes from.

    Attributes:
        tokens: (number of tokens,) memory-mapped.
        starts: (number of documents,) int64, where each begins.
        marked: whether a document begins with the unit that ends the one before.
        problems: documents that were left out.
        fingerprint: hash of all that the tokens depend on.
    """

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        notes = json.loads((folder / "notes.json").read_text("utf-8"))
        self.files = [os.fspath(path) for path in paths]
        self.problems = [Problem(self.files[file], line, cause) for file, line, cause in notes["problems"]]
        self.fingerprint = folder.name[:16]
        self.marked: bool = notes["marked"]
        self.tokens: npt.NDArray[Any] = _mapped(folder / "tokens.bin", notes["dtype"])
        self.starts: npt.NDArray[np.int64] = _mapped(folder / "starts.bin", "int64")
        self._origins: npt.NDArray[np.int64] = _mapped(folder / "origins.bin", "int64").reshape(-1, 2)
        if (len(self.tokens), len(self.starts), len(self._origins)) != (notes["tokens"], *[notes["documents"]] * 2):
            raise ValueError(f"`{folder}` is broken")

    def origin(self, token: int) -> tuple[str, int]:
        """File and line of the document that a token belongs to."""
        file, line = self._origins[np.searchsorted(self.starts, token, side="right") - 1].tolist()
        return self.files[file], line


def read_corpus(paths: Sequence[Path], tokenizer: Tokenizer, *, identity: Any, field: str) -> Corpus:
    """Tokenises files, or finds their tokens in the cache.

    Args:
        paths: ``.txt``, one document a file, or ``.jsonl``, one a line.
        tokenizer: cuts the texts.
        identity: all that its tokens depend on, as JSON takes it.
        field: the key of the text in ``.jsonl``.

    Raises:
        DataError: the cache cannot be written.
    """
    hashes = [digest(path) for path in paths]
    kinds = [path.suffix for path in paths]
    key = hashlib.sha256(json.dumps([VERSION, identity, field, hashes, kinds]).encode()).hexdigest()[:32]
    folder = cache_folder() / "tokens" / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock")):
            return _opened(folder, paths) or _written(folder, paths, tokenizer, field)
    except OSError as error:
        raise DataError(
            f"the tokens of the texts cannot be kept in `{folder.parent}`: {error}. Make room there, or name another "
            "folder by the variable ANEMONE_CACHE."
        ) from error


def _mapped(path: Path, dtype: str) -> npt.NDArray[Any]:
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "r")


def _opened(folder: Path, paths: Sequence[Path]) -> Corpus | None:
    """The corpus in a folder; None if there is none, or a broken one."""
    try:
        return Corpus(folder, paths)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _written(folder: Path, paths: Sequence[Path], tokenizer: Tokenizer, field: str) -> Corpus:
    """Writes a corpus beside its place, moves it there in one step and opens it."""
    draft = Path(tempfile.mkdtemp(dir=folder.parent, suffix=".tmp"))
    try:
        notes = _tokenize(draft, paths, tokenizer, field)
        (draft / "notes.json").write_text(json.dumps(notes), "utf-8")
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Corpus(folder, paths)


def _tokenize(folder: Path, paths: Sequence[Path], tokenizer: Tokenizer, field: str) -> dict[str, Any]:
    """Writes all tokens and where documents begin; what cannot be read is left out and noted."""
    dtype = next(kind for kind in ("uint8", "uint16", "uint32") if tokenizer.vocab_size - 1 <= np.iinfo(kind).max)
    width, documents, problems = np.dtype(dtype).itemsize, 0, []
    mark = np.asarray([] if tokenizer.end is None else [tokenizer.end], dtype).tobytes()
    with (
        (folder / "tokens.bin").open("wb") as tokens,
        (folder / "starts.bin").open("wb") as starts,
        (folder / "origins.bin").open("wb") as origins,
    ):
        tokens.write(mark)
        for number, path in enumerate(paths):
            for line, pieces in _documents(path, field):
                start = tokens.tell()
                try:
                    for piece in pieces:
                        tokens.write(np.asarray(tokenizer.encode(piece), dtype).tobytes())
                    if tokens.tell() == start:
                        raise DataError("has no text")
                except DataError as error:
                    tokens.seek(start)
                    tokens.truncate()
                    problems.append((number, line, str(error)))
                    continue
                tokens.write(mark)
                starts.write(np.int64((start - len(mark)) // width).tobytes())
                origins.write(np.array([number, line], np.int64).tobytes())
                documents += 1
        total = tokens.tell() // width
    counts = {"tokens": total, "documents": documents, "marked": bool(mark)}
    return {"dtype": dtype, **counts, "problems": problems}


def _documents(path: Path, field: str) -> Iterator[tuple[int, Iterator[str]]]:
    """Yields line and pieces of each document of a file; the pieces raise DataError where it cannot be read."""
    if path.suffix in WHOLE:
        yield 1, _cut(_decoded(path))
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _cut(_field(line, field))


def _decoded(path: Path) -> Iterator[str]:
    """Yields the text of a file in blocks."""
    decoder, done = codecs.getincrementaldecoder("utf-8-sig")(), 0
    with path.open("rb") as file:
        while True:
            block = file.read(PIECE)
            done += len(block)
            try:
                yield decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = done - len(error.object) + error.start
                raise DataError(f"must be text in UTF-8, but has an {error.reason} at byte {at}") from error
            if not block:
                return


def _field(line: bytes, field: str) -> Iterator[str]:
    yield text_of(line, field)


def text_of(line: bytes, field: str) -> str:
    """Returns the text of one line of JSON.

    Raises:
        DataError: it is no object of JSON in UTF-8, or has no such text.
    """
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"must be text in UTF-8, but has an {error.reason} at byte {error.start} of the line"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(f"is not JSON: {error.msg} at character {error.colno}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"is not JSON that can be read: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"must be an object in braces, but is {type(row).__name__} instead")
    if field not in row:
        raise DataError(f"lacks `{field}`; it has {', '.join(f'`{key}`' for key in row) or 'nothing'}")
    text = row[field]
    if not isinstance(text, str):
        raise DataError(f"`{field}` must be a string, but is {type(text).__name__} instead")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"`{field}` is not Unicode text: {error.reason} at character {error.start}") from error
    return text


def _cut(blocks: Iterable[str]) -> Iterator[str]:
    """Yields a text in pieces that end with a line, or with a word, or anywhere if there is none."""
    rest = ""
    for block in blocks:
        rest += block
        while len(rest) > PIECE:
            end = rest.rfind("\n", 0, PIECE) + 1 or max(rest.rfind(" ", 0, PIECE), 0) or PIECE
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other processes waiting within the block: one tokenises, the others find its work done."""
    with path.open("a") as file:
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
