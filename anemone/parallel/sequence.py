"""Who has which tokens of a sequence, and which keys their queries see.

A rank's part is the i-th of n pieces of the sequence (contiguous), or chunks i and 2 n - 1 - i of 2 n (zigzag), so that
all ranks have as many pairs of tokens to attend to under a causal mask.
"""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from anemone.config import must
from anemone.nn.attention import document_lens
from anemone.parallel.ring import Balance, Piece


def sequence_order(length: int, size: int, balance: Balance, device: torch.device | None = None) -> Tensor:
    """Positions in the order in which ``size`` ranks have them, one rank after the other: (N,) int64.

    Example:
        >>> sequence_order(8, 2, "zigzag")
        tensor([0, 1, 6, 7, 2, 3, 4, 5])

    Raises:
        ConfigError: the length is not a multiple of the number of chunks.
    """
    chunks = torch.arange(length, device=device).view(num_chunks(length, size, balance), -1)
    return torch.cat([chunks[chunk] for rank in range(size) for chunk in chunks_of(rank, size, balance)])


def num_chunks(length: int, size: int, balance: Balance) -> int:
    """Chunks that a sequence is cut into for ``size`` ranks.

    Raises:
        ConfigError: the length is not a multiple of them.
    """
    count = size * (2 if balance == "zigzag" else 1)
    rule = f"a multiple of {count}, the chunks of `parallel.cp` = {size} with `parallel.cp_balance` = {balance!r}"
    must(length > 0 and length % count == 0, "data.sequence_len", rule, value=length, hint="Change either of them.")
    return count


def chunks_of(rank: int, size: int, balance: Balance) -> list[int]:
    """Numbers of the chunks that a rank has, in order."""
    return [rank, 2 * size - 1 - rank] if balance == "zigzag" else [rank]


class Part(NamedTuple):
    """The ranks that share a sequence, and how."""

    group: dist.ProcessGroup
    balance: Balance

    def starts(self, length: int) -> list[int]:
        """Positions at which the chunks of this rank start, where it has ``length`` tokens in all."""
        chunks = chunks_of(self.group.rank(), self.group.size(), self.balance)
        return [chunk * (length // len(chunks)) for chunk in chunks]

    def order(self, length: int, device: torch.device) -> Tensor:
        """`sequence_order` of all ranks, where each has ``length`` tokens."""
        size = self.group.size()
        return sequence_order(length * size, size, self.balance, device)

    def gather(self, x: Tensor) -> Tensor:
        """Whole sequences (B, n N, ...) in their own order, from parts (B, N, ...); no gradient."""
        parts = x.new_empty(self.group.size() * x.shape[0], *x.shape[1:])
        dist.all_gather_single(parts, x.contiguous(), group=self.group)
        order = self.order(x.shape[1], x.device)
        parts = parts.view(-1, *x.shape).transpose(0, 1)  # (n B, N, ...) -> (B, n, N, ...)
        return parts.flatten(1, 2)[:, order.argsort()]

    def scatter_sum(self, x: Tensor) -> Tensor:
        """This rank's part (B, N, ...) of the sum over ranks of whole sequences (B, n N, ...)."""
        size = self.group.size()
        order = self.order(x.shape[1] // size, x.device)
        parts = x[:, order].view(x.shape[0], size, -1, *x.shape[2:])  # (B, n N, ...) -> (B, n, N, ...)
        parts = parts.transpose(0, 1).flatten(0, 1).contiguous()  # -> (n B, N, ...)
        own = torch.empty_like(parts[: x.shape[0]])
        dist.reduce_scatter_single(own, parts, group=self.group)
        return own


class Run(NamedTuple):
    """Queries of one rank that stand side by side in one document."""

    rows: slice
    queries: slice
    """Where they are among this rank's."""

    first: int
    """Position of the first of them in the sequence."""

    document: tuple[int, int]
    """Positions at which their document begins and ends."""

    def pieces(self, causal: bool) -> Iterator[Piece]:
        """Yields the keys before them, and those beside them."""
        (begin, end), after = self.document, self.first + self.queries.stop - self.queries.start
        if not causal:
            yield Piece(self.queries, slice(begin, end), False, self.rows)
            return
        if begin < self.first:
            yield Piece(self.queries, slice(begin, self.first), False, self.rows)
        yield Piece(self.queries, slice(self.first, after), True, self.rows)

    def seen(self, window: int) -> slice:
        """The keys that they see under a causal window: the last of them belongs to the last of these queries."""
        after = self.first + self.queries.stop - self.queries.start
        return slice(max(self.document[0], self.first - window + 1), after)


def runs(starts: list[int], length: int, total: int, segments: Tensor | None) -> Iterator[list[Run]]:
    """Yields the runs of each row, in the order of this rank's queries; one row for all without segments.

    Args:
        starts: positions at which this rank's chunks start.
        length: tokens of this rank.
        total: tokens of the sequence.
        segments: (B, total), numbers of documents.
    """
    size = length // len(starts)
    for rows, documents in _documents(total, segments):
        row = []
        for number, start in enumerate(starts):
            for begin, end in documents:
                first, after = max(begin, start), min(end, start + size)
                if first < after:
                    at = number * size - start
                    row.append(Run(rows, slice(at + first, at + after), first, (begin, end)))
        yield row


def _documents(total: int, segments: Tensor | None) -> Iterator[tuple[slice, list[tuple[int, int]]]]:
    if segments is None:
        yield slice(None), [(0, total)]
        return
    for number, row in enumerate(torch.split(segments.cpu(), 1)):
        borders = accumulate(document_lens(row), initial=0)
        yield slice(number, number + 1), list(pairwise(borders))
