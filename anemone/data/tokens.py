"""Text for language models: where it is, and the loader that deals out its rows.

The order of the rows is a pure function of (seed, epoch), and a position is two numbers, (epoch, step), for any number
of ranks: whoever starts there gets what an uninterrupted run gets.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anemone.config import EMPTY, encode, must
from anemone.data.files import find
from anemone.data.problems import log, none_usable, report
from anemone.data.shuffle import shuffled
from anemone.data.steps import Steps
from anemone.data.text import LINES, WHOLE, read_corpus
from anemone.data.token_rows import TokenBatch, TokenRows
from anemone.errors import DataError


@dataclass(frozen=True, kw_only=True)
class TokenDataConfig:
    """Where text is and how it is cut into rows of tokens."""

    unit: ClassVar[str] = "tokens"
    """What the speed of training is measured in."""

    train: tuple[str, ...] = ()
    """Texts to train on: ``.txt``, one document a file, or ``.jsonl``, one a line; ``assets/...`` is in the package."""

    valid: tuple[str, ...] = ()
    """Texts to validate on."""

    test: tuple[str, ...] = ()
    """Texts for the last evaluation."""

    field: str = "text"
    """The key of the text in a line of ``.jsonl``."""

    sequence_len: int = 512
    """Tokens of a row: what the model sees at once."""

    batch_size: int = 8
    """Rows of a micro-batch in training."""

    eval_batch_size: int = 8
    """Rows of a batch of an evaluation."""

    pack: bool = False
    """Whether a token sees only its own document, where a row holds several; else they are read as one text."""

    skip_bad: bool = True
    """Whether documents that cannot be used are reported and left out, or end the run."""

    def __post_init__(self) -> None:
        for name in ("sequence_len", "batch_size", "eval_batch_size"):
            must(getattr(self, name) >= 1, name, "1 or more", value=getattr(self, name))
        must(bool(self.field), "field", "the key of the text", value=self.field)

    def read(self, paths: Sequence[str | Path], task: Any, files: Mapping[str, bytes] = EMPTY) -> "TokenRows":
        """Reads texts; of the task's config it asks the ``tokenizer``.

        Raises:
            DataError: a file does not exist or is of another kind, or they hold no text.
        """
        kinds = (*WHOLE, *LINES)
        found = [find(path, noun="file of text", pattern="*").absolute() for path in paths]
        for path in found:
            if path.suffix not in kinds:
                raise DataError(f"`{path}` must end in {', '.join(kinds[:-1])} or {kinds[-1]}: text, or lines of JSON.")
        tokenizer = task.tokenizer.build(files)
        settings = {name: value for name, value in encode(task)["tokenizer"].items() if name != "path"}
        contents = {name: sha256(data).hexdigest() for name, data in tokenizer.files().items()}
        corpus = read_corpus(found, tokenizer, identity=[settings, contents], field=self.field)
        report(corpus.problems, len(corpus.starts) + len(corpus.problems), skip_bad=self.skip_bad, noun="document")
        if len(corpus.tokens) < 2:
            raise none_usable(len(corpus.problems), corpus.problems, noun="document")
        return TokenRows(corpus, self.sequence_len, pack=self.pack)

    def shared(self, loaders: int = 1) -> None:
        """Returns nothing: the system keeps what was read of a memory-mapped file."""

    def loader(
        self,
        index: "TokenRows",
        encode: Callable[[str], Sequence[int]],
        *,
        training: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        batches_per_step: int | None = None,
        shared: None = None,
    ) -> "TokenLoader":
        """Makes the loader of one rank; see `TokenLoader`. ``encode`` and ``shared`` are not needed any more."""
        return TokenLoader(
            index, self, training=training, seed=seed, rank=rank, world=world, batches_per_step=batches_per_step
        )


class TokenLoader(Steps):
    """The micro-batches of this rank, step by step, in an order of each epoch's own; see `Steps`.

    What is left of an epoch and fills no step is dropped in training; the next epoch has other rows there.

    Args:
        index: the rows.
        config: how many make a micro-batch.
        training: shuffled steps, or every row once, in order, a micro-batch a step.
        seed: of the run.
        rank: of this process, among those that read different rows.
        world: number of them.
        batches_per_step: micro-batches of an optimizer step over all ranks; a multiple of ``world``.
    """

    shaped_by: ClassVar[str] = "`data.batch_size`, `data.sequence_len`"

    def __init__(
        self,
        index: TokenRows,
        config: TokenDataConfig,
        *,
        training: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        batches_per_step: int | None = None,
    ) -> None:
        super().__init__(training=training, rank=rank, world=world, batches_per_step=batches_per_step)
        self.index, self.seed = index, seed
        self.batch_size = config.batch_size if training else config.eval_batch_size
        self._said = rank > 0

    def num_batches(self, epoch: int) -> int:
        """Micro-batches of an epoch: in training those that fill steps, the same number in each."""
        if self.training:
            return len(self.index) // (self.batch_size * self.batches_per_step) * self.batches_per_step
        return -(-len(self.index) // self.batch_size)

    def total_steps(self, epochs: int) -> int:
        """Steps of so many epochs.

        Raises:
            ConfigError: there are fewer rows than a step takes.
        """
        rows, each = len(self.index), self.batches_per_step
        rule = f"at most {rows // each}, as there are {rows} rows and a step takes {each} micro-batches"
        must(self.steps(0) > 0, "data.batch_size", rule, value=self.batch_size)
        return epochs * self.steps(0)

    def __iter__(self) -> Iterator[list[TokenBatch]]:
        """Yields the steps from the position to the end of its epoch, each a list of this rank's micro-batches."""
        self._say_dropped()
        epoch, left = self._left()
        for step, share in left:
            batches = [self._batch(epoch, number) for number in share]
            self._taken(epoch, step)
            yield batches

    def _batch(self, epoch: int, number: int) -> TokenBatch:
        """A micro-batch by its number in the epoch."""
        begin, rows = number * self.batch_size, len(self.index)
        numbers = np.arange(begin, min(begin + self.batch_size, rows))
        if self.training:
            numbers = shuffled(numbers, rows, seed=self.seed, epoch=epoch)
        self.used += len(numbers)
        return self.index.batch(numbers)

    def _say_dropped(self) -> None:
        """Says how many rows of an epoch fill no step."""
        rest = len(self.index) % (self.batch_size * self.batches_per_step)
        if rest and self.training and not self._said:
            log.info("the last %d of %d sequences of each epoch fill no step and are left out", rest, len(self.index))
        self._said = True
