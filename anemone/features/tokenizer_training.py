"""Tokenizers made of texts: SentencePiece (BPE, unigram, characters) and WordPiece, the same files for the same texts.

tokenizer.model    of SentencePiece, what `SentencePieceConfig.path` reads
tokenizer.vocab    its pieces and their scores, as its own tools write them
vocab.txt          the pieces a line each, ``##`` before those that go on with a word; what `WordPieceConfig` reads
"""

import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from anemone.config import must
from anemone.features.byte_bpe import joined
from anemone.features.text import TextConfig
from anemone.features.wordpiece import SPECIAL, words

MODEL, SCORES, PIECES = "tokenizer.model", "tokenizer.vocab", "vocab.txt"
SPACE = "\u2581"
RULES = {"keep": "identity", "nfkc": "nmt_nfkc", "nfkc_lower": "nmt_nfkc_cf"}


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainingConfig:
    """How a tokenizer is made."""

    kind: Literal["bpe", "unigram", "char", "wordpiece"] = "bpe"
    """Pieces by the frequency of pairs (arXiv:1508.07909), by likelihood (arXiv:1804.10959), characters, or BERT's."""

    vocab_size: int = 1024
    """Number of pieces, special ones among them; of characters, the most there may be."""

    coverage: float = 1.0
    """Share of the characters of the texts that are pieces; rarer ones are unknown. 0.9995 suits Chinese."""

    special: tuple[str, ...] = ()
    """Pieces that texts may hold and that are never cut, such as tags of languages, ``<en>``."""

    control: tuple[str, ...] = ()
    """Pieces that no text is cut into, such as ``<pad>``."""

    byte_fallback: bool = False
    """Whether a character that is no piece becomes its bytes of UTF-8 instead of the unknown piece."""

    end: bool = False
    """Whether there is a piece that ends a document, ``</s>``."""

    normalisation: Literal["keep", "nfkc", "nfkc_lower"] = "nfkc"
    """What the tokenizer itself makes of Unicode before it cuts; a part of the model."""

    text: TextConfig | None = None
    """What is made of texts before; a recogniser needs the same as `task.text`."""

    most: int = 10_000_000
    """Texts that are read, from the first."""

    def __post_init__(self) -> None:
        must(self.vocab_size >= 2, "vocab_size", "2 or more", value=self.vocab_size)
        must(0.9 <= self.coverage <= 1, "coverage", "in 0.9..1", value=self.coverage)
        must(self.most >= 1, "most", "1 or more", value=self.most)
        marks = [*self.special, *self.control]
        odd = [mark for mark in marks if not mark or "," in mark or marks.count(mark) > 1]
        must(not odd, "special", "of different pieces without commas", value=odd)
        plain = self.kind != "wordpiece" or not (self.byte_fallback or self.end or self.control)
        must(plain, "kind", "one of SentencePiece's with `byte_fallback`, `end` or `control`", value=self.kind)


def train_tokenizer(texts: Iterable[str], config: TokenizerTrainingConfig) -> dict[str, bytes]:
    """Makes a tokenizer; returns its files by name.

    Args:
        texts: a sentence each; empty ones do not count.
        config: how.

    Raises:
        ConfigError: there are no texts, or they do not have as many pieces.
    """
    write = config.text.build() if config.text else str.strip
    sentences = list(islice((written for text in texts if (written := write(text))), config.most))
    must(bool(sentences), "texts", "at least one that is not empty", value=0)
    if config.kind == "wordpiece":
        pieces = wordpiece(sentences, config.vocab_size, config.special)
        return {PIECES: _lines(pieces)}
    model = _sentencepiece(sentences, config)
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    numbers = range(processor.vocab_size())
    scores = [f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}" for i in numbers]
    silent = {*config.special, SPACE}
    plain = [i for i in numbers if not (processor.is_unknown(i) or processor.is_control(i) or processor.is_byte(i))]
    pieces = [_continued(piece) for i in plain if (piece := processor.id_to_piece(i)) not in silent]
    return {MODEL: model, SCORES: _lines(scores), PIECES: _lines(pieces)}


def _sentencepiece(sentences: list[str], config: TokenizerTrainingConfig) -> bytes:
    """The model's file. One thread and no shuffling, so that the same texts give the same bytes."""
    file = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=file,
            model_type=config.kind,
            vocab_size=config.vocab_size,
            character_coverage=config.coverage,
            user_defined_symbols=list(config.special),
            control_symbols=list(config.control),
            byte_fallback=config.byte_fallback,
            normalization_rule_name=RULES[config.normalisation],
            hard_vocab_limit=config.kind != "char",
            unk_id=0,
            bos_id=-1,
            eos_id=1 if config.end else -1,
            pad_id=-1,
            shuffle_input_sentence=False,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        found = re.search(r"<= (\d+)", str(error))
        rule = f"at most {found[1]} for these texts" if found else "a number that these texts allow"
        hint = str(error).strip().splitlines()[-1].rpartition("] ")[2]
        must(False, "vocab_size", rule, value=config.vocab_size, hint=hint)
    return file.getvalue()


def _continued(piece: str) -> str:
    return piece.removeprefix(SPACE) if piece.startswith(SPACE) else f"##{piece}"


def _lines(rows: Iterable[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


# --- WordPiece --------------------------------------------------------------------------------------------------------


def wordpiece(texts: Iterable[str], vocab_size: int, special: Iterable[str] = ()) -> list[str]:
    """Returns the pieces of a WordPiece vocabulary: marks, characters, then pairs by their frequency, joined.

    Args:
        texts: a sentence each.
        vocab_size: number of pieces.
        special: further marks.

    Raises:
        ConfigError: the characters alone are more, or there are not as many pieces.
    """
    counts = Counter(word for text in texts for word in words(text, lowercase=False))
    cut = {word: [c if i == 0 else f"##{c}" for i, c in enumerate(word)] for word in sorted(counts)}
    letters = sorted({piece for pieces in cut.values() for piece in pieces})
    found = [*SPECIAL, *(mark for mark in special if mark not in SPECIAL), *letters]
    rule = f"{len(found)} or more, for marks and characters"
    must(len(found) <= vocab_size, "vocab_size", rule, value=vocab_size)
    pairs: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[str]] = defaultdict(set)
    for word, pieces in cut.items():
        _count(word, pieces, counts[word], pairs, where)
    while len(found) < vocab_size:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        must(best is not None, "vocab_size", f"at most {len(found)} for these texts", value=vocab_size)
        assert best is not None
        both = best[0] + best[1].removeprefix("##")
        for word in sorted(where.pop(best)):
            _count(word, cut[word], -counts[word], pairs, where)
            cut[word] = joined(cut[word], best, both)
            _count(word, cut[word], counts[word], pairs, where)
        pairs.pop(best, None)
        found += [both] if both not in found else []
    return found


def _count(
    word: str, pieces: list[str], number: int, pairs: Counter[tuple[str, str]], where: dict[tuple[str, str], set[str]]
) -> None:
    """Adds the pairs of a word, or takes them away where the number is negative."""
    for pair in pairwise(pieces):
        pairs[pair] += number
        if number > 0:
            where[pair].add(word)
        elif pairs[pair] <= 0:
            del pairs[pair]
