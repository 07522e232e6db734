"""A ``tokenizer.json`` that was made of a SentencePiece model, and the model that it was made of.

Their file lists pieces, merges and a table of normalisation; SentencePiece's own holds the same, with scores in place
of the order of merges. So texts are cut by the library that cut them in training. The model is a protocol buffer,
whose few fields are written here.
"""

import base64
import binascii
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from anemone.errors import ArchiveError

FILE = "tokenizer.json"
UNKNOWN, CONTROL, GIVEN, BYTE = 2, 3, 4, 6  # types of pieces; an ordinary one is 1
UNIGRAM, BPE = 1, 2  # types of models
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
MOST = 1 << 20  # pieces
STRIP = {"type": "Strip", "strip_left": False, "strip_right": True}
SPACES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}
NEUTRAL = (None, False, 0.0, "")


def sentencepiece_model(tree: Mapping[str, Any], size: int) -> bytes:
    """Returns the contents of a ``tokenizer.model``.

    Args:
        tree: of ``tokenizer.json``.
        size: number of pieces; added tokens from there on, such as a blank, are left out.

    Raises:
        ArchiveError: something has no counterpart in SentencePiece, or is broken; names it.
    """
    model = tree.get("model")
    kind = model.get("type") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or kind not in ("BPE", "Unigram"):
        raise ArchiveError(f"`{FILE}: model.type` must be BPE or Unigram to be read, but is {kind!r} instead.")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(name) not in NEUTRAL:
            raise ArchiveError(f"`{FILE}: model.{name}` must be null to be read, but is {model[name]!r} instead.")
    pieces = _scores(model) if kind == "BPE" else dict(enumerate(_listed(model)))
    types = _types(tree, model, pieces, size)
    if sorted(pieces) != [*range(size)]:
        raise ArchiveError(
            f"`{FILE}` must have the pieces 0 to {size - 1} of the model, but has {len(pieces)} instead."
        )
    charsmap, collapse = _normalizer(tree.get("normalizer"))
    parts = [_field(1, _piece(*pieces[n], types.get(n, 1))) for n in range(size)]
    unknown = next((n for n, sort in types.items() if sort == UNKNOWN), -1)
    if unknown < 0:
        raise ArchiveError(f"`{FILE}` must have an unknown piece among its first {size}, but has none.")
    trainer = _number(3, BPE if kind == "BPE" else UNIGRAM) + _number(35, int(BYTE in types.values()))
    trainer += _number(40, unknown) + b"".join(_number(field, -1) for field in (41, 42, 43))
    rules = _field(2, charsmap) + _number(3, int(_begins_with_space(tree.get("pre_tokenizer")))) + _number(4, collapse)
    return b"".join([*parts, _field(2, trainer), _field(3, rules + _number(5, 1))])


# --- pieces -----------------------------------------------------------------------------------------------------------


def _numbered(model: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Number and text of each piece of a BPE."""
    vocab = model.get("vocab")
    whole = isinstance(vocab, Mapping) and all(isinstance(n, int) and 0 <= n < MOST for n in vocab.values())
    if not isinstance(vocab, Mapping) or not whole or len({*vocab.values()}) < len(vocab):
        raise ArchiveError(f"`{FILE}: model.vocab` must give each piece a number of its own.")
    return [(number, text) for text, number in vocab.items()]


def _scores(model: Mapping[str, Any]) -> dict[int, tuple[str, float]]:
    """Text and score of each piece of a BPE: the sooner its parts are joined, the higher.

    SentencePiece joins any two pieces that make a third; so must the merges.
    """
    vocab, merges = {text: n for n, text in _numbered(model)}, model.get("merges")
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in _lists(merges)]
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(pairs):
        if len(pair) != 2 or any(part not in vocab for part in (*pair, "".join(pair))):
            raise ArchiveError(f"`{FILE}: model.merges` must join pieces to pieces, but has {pair!r}.")
        ranks.setdefault("".join(pair), rank)
    known = set(pairs)
    for text in ranks:
        for at in range(1, len(text)):
            if text[:at] in vocab and text[at:] in vocab and (text[:at], text[at:]) not in known:
                raise ArchiveError(
                    f"`{FILE}: model.merges` lacks {text[:at]!r} and {text[at:]!r}, so it is no SentencePiece."
                )
    return {n: (text, float(-ranks.get(text, len(pairs)))) for text, n in vocab.items()}


def _lists(value: Any) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(item, str | list) for item in value):
        raise ArchiveError(f"`{FILE}: model` must list its merges or pieces.")
    return value


def _listed(model: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Text and score of each piece of a unigram model."""
    pairs = [tuple(pair) for pair in _lists(model.get("vocab"))]
    if not all(len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], int | float) for p in pairs):
        raise ArchiveError(f"`{FILE}: model.vocab` must list pieces with their scores.")
    return [(text, float(score)) for text, score in pairs]


def _types(
    tree: Mapping[str, Any], model: Mapping[str, Any], pieces: dict[int, tuple[str, float]], size: int
) -> dict[int, int]:
    """Types of the pieces that are not ordinary; added tokens below ``size`` become pieces."""
    bytes_ = [n for n, (text, _) in pieces.items() if model.get("byte_fallback") and BYTE_PIECE.fullmatch(text)]
    types = dict.fromkeys(bytes_ if len(bytes_) == 256 else (), BYTE)
    for entry in tree.get("added_tokens") or []:
        number, text = (entry.get("id"), entry.get("content")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(number, int) or not isinstance(text, str):
            raise ArchiveError(f"`{FILE}: added_tokens` must have `id` and `content`, but has {entry!r}.")
        if number < size:
            pieces[number] = (text, pieces.get(number, ("", 0.0))[1])
            types[number] = CONTROL if entry.get("special") else GIVEN
    unknown = model.get("unk_id") if model.get("type") == "Unigram" else None
    for n, (text, _) in pieces.items():
        if n == unknown or (unknown is None and text == model.get("unk_token")):
            types[n] = UNKNOWN
    for n in [n for n in pieces if n >= size]:
        del pieces[n]
    return types


# --- how a text is made ready -----------------------------------------------------------------------------------------


def _normalizer(value: Any) -> tuple[bytes, int]:
    """The table of normalisation, and whether white space is made one and taken away at the end."""
    steps = value.get("normalizers") if isinstance(value, Mapping) and value.get("type") == "Sequence" else [value]
    charsmap, collapse = b"", 0
    for step in steps if isinstance(steps, list) else [steps]:
        if step is None:
            continue
        if isinstance(step, Mapping) and step.get("type") == "Precompiled" and not charsmap:
            try:
                charsmap = base64.b64decode(str(step.get("precompiled_charsmap") or ""), validate=True)
            except binascii.Error as error:
                raise ArchiveError(f"`{FILE}: normalizer.precompiled_charsmap` cannot be read: {error}.") from error
        elif step in (STRIP, SPACES):
            collapse = 1
        else:
            raise ArchiveError(f"`{FILE}: normalizer` has {str(step)[:200]}, which cannot be read.")
    return charsmap, collapse


def _begins_with_space(value: Any) -> bool:
    """Whether a text is begun with a space."""
    if not isinstance(value, Mapping) or value.get("type") != "Metaspace" or value.get("replacement") != "\u2581":
        raise ArchiveError(
            f"`{FILE}: pre_tokenizer` must be Metaspace with \u2581 to be read, but is {str(value)[:200]}."
        )
    return str(value.get("prepend_scheme", "always")) != "never"


# --- protocol buffers -------------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    """A whole number, 7 bits a byte, the lowest first; one below zero in 64 bits."""
    value &= (1 << 64) - 1
    return bytes(_groups(value))


def _groups(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _piece(text: str, score: float, sort: int) -> bytes:
    return (
        _field(1, text.encode("utf-8", "replace")) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _number(3, sort)
    )
