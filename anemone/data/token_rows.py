"""Rows of tokens, cut from a corpus, and batches of them."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anemone.data.problems import Problem
from anemone.data.shuffle import Numbers
from anemone.data.text import Corpus
from anemone.types import IGNORED


class TokenBatch(NamedTuple):
    """Rows of tokens.

    Attributes:
        tokens: (B, N) int64.
        targets: (B, N) int64, the token after each; -100 where it does not count.
        positions: (B, N) int64, of each token in its document or row, from 0.
        segments: (B, N) int64, number of each token's document; None where rows are read as one text.
        rows: (B,) int64 row numbers.
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    segments: Tensor | None
    rows: Tensor

    @property
    def size(self) -> float:
        """Tokens that are predicted."""
        return float((self.targets != IGNORED).sum())

    def to(self, device: torch.device | str) -> "TokenBatch":
        """Returns the same batch on a device; row numbers stay where they are."""
        return self.shard(lambda tensor: tensor.to(device, non_blocking=True))

    def item(self, i: int) -> "TokenBatch":
        """Returns a batch of the ``i``-th row alone."""
        return self.shard(lambda tensor: tensor[i : i + 1])._replace(rows=self.rows[i : i + 1])

    def shard(self, select: Callable[[Tensor], Tensor]) -> "TokenBatch":
        """Returns the batch with a part of each (B, N) tensor, as processes that share rows take them."""
        tokens, targets, positions = (select(tensor) for tensor in self[:3])
        return TokenBatch(
            tokens, targets, positions, None if self.segments is None else select(self.segments), self.rows
        )


class TokenRows:
    """The rows of a corpus: ``sequence_len`` tokens each, and the token after each as its target.

    The next row begins with the last target of the one before, so each token but the first is predicted once. The last
    row is filled up with targets that do not count.

    Args:
        corpus: the tokens.
        sequence_len: N, tokens of a row.
        pack: whether documents are told apart within a row: a token sees only its own document, and positions begin
            anew. Where nothing marks its end, a document does not predict the beginning of the next.

    Attributes:
        problems: documents that were left out.
        fingerprint: hash of all that the tokens depend on: texts and tokenizer.
    """

    noun: ClassVar[str] = "sequence"

    def __init__(self, corpus: Corpus, sequence_len: int, *, pack: bool = False) -> None:
        self.corpus, self.sequence_len, self.pack = corpus, sequence_len, pack
        self.problems: list[Problem] = corpus.problems
        self.fingerprint = corpus.fingerprint

    def __len__(self) -> int:
        """Number of rows."""
        return -(-(len(self.corpus.tokens) - 1) // self.sequence_len)

    @property
    def extent(self) -> str:
        """How long the rows are."""
        return f"of {self.sequence_len:,} tokens"

    def name(self, number: int) -> str:
        """File and line of the document that a row begins in, and which tokens of the corpus it holds."""
        start = number * self.sequence_len
        file, line = self.corpus.origin(start)
        return f"{file}:{line} (tokens {start} to {min(start + self.sequence_len, len(self.corpus.tokens) - 1)})"

    def describe(self) -> dict[str, Any]:
        """Rows, tokens, documents, fingerprint, and documents that were left out."""
        return {
            "rows": len(self),
            "tokens": len(self.corpus.tokens),
            "documents": len(self.corpus.starts),
            "fingerprint": self.fingerprint,
            "left_out": len(self.problems),
        }

    def batch(self, numbers: Numbers) -> TokenBatch:
        """Returns some rows.

        Args:
            numbers: (B,) of rows.
        """
        starts = numbers[:, None] * self.sequence_len
        places = starts + np.arange(self.sequence_len + 1)  # (B, N + 1)
        last = len(self.corpus.tokens) - 1
        counts = places[:, 1:] <= last
        places = np.minimum(places, last)
        tokens = self.corpus.tokens[places].astype(np.int64)
        positions, segments = places[:, :-1] - starts, None
        if self.pack:
            documents = np.searchsorted(self.corpus.starts, places, side="right") - 1
            counts &= (documents[:, 1:] == documents[:, :-1]) | self.corpus.marked
            positions = places[:, :-1] - np.maximum(self.corpus.starts[documents[:, :-1]], starts)
            segments = torch.from_numpy(documents[:, :-1] - documents[:, :1])
        targets = np.where(counts, tokens[:, 1:], IGNORED)
        inputs = np.ascontiguousarray(tokens[:, :-1])
        return TokenBatch(
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            torch.from_numpy(positions),
            segments,
            torch.from_numpy(numbers),
        )
