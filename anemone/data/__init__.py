"""What comes in, by kind: recordings with what is said in them, or text as tokens.

Each kind has a config that reads its sets and makes its loaders; training knows data by the words below alone.

Speech: ``audio`` decodes recordings, ``manifest`` (with ``jsonlines``) makes the columnar index, ``plan`` (with
``buckets``, ``mixing``, ``padding`` and ``epochs``) says which utterances go together, ``augmentation`` changes
recordings in training, ``loader`` reads it all, in workers or not, into ``batch``. Text: ``text`` makes a file of
tokens, ``token_rows`` cuts it into rows, ``shuffle`` orders them and ``tokens`` deals them out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from anemone.config import EMPTY

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from anemone.data.problems import Problem

DATA = {
    "kaldi": "anemone.data.kaldi.loader:KaldiDataConfig",
    "speech": "anemone.data.loader:SpeechDataConfig",
    "tokens": "anemone.data.tokens:TokenDataConfig",
}


class MicroBatch(Protocol):
    """What a forward and backward go over at a time.

    Attributes:
        rows: (B,) int64 row numbers in the data.
    """

    @property
    def rows(self) -> "Tensor":
        """Row numbers (B,) int64."""

    @property
    def size(self) -> float:
        """How much it is, in the unit of its data: seconds of audio, tokens."""

    def to(self, device: "torch.device | str") -> Self:
        """Returns the same micro-batch on a device; row numbers stay where they are."""

    def item(self, i: int) -> Self:
        """Returns a micro-batch of the ``i``-th alone."""


class Examples(Protocol):
    """One set of a run: rows to learn from or to measure on.

    Attributes:
        noun: what a row is called.
        problems: what was left out, and why.
        fingerprint: hash of what the set holds.
    """

    noun: ClassVar[str]
    problems: "list[Problem]"
    fingerprint: str

    def __len__(self) -> int:
        """Number of rows."""

    @property
    def extent(self) -> str:
        """How much the rows are, after their number: "of 1.25 h"."""

    def name(self, number: int) -> str:
        """Where a row comes from: file and line."""

    def describe(self) -> dict[str, Any]:
        """What the run folder notes: at least ``rows``, ``fingerprint`` and ``left_out``."""


class StepLoader(Protocol):
    """The micro-batches of one rank, step by step; a position is (epoch, step), and steps are the same on all ranks.

    Attributes:
        index: the set.
        problems: rows that could not be used so far, each once.
        bad: their numbers.
        used: rows given so far.
    """

    @property
    def index(self) -> Examples:
        """The set."""

    problems: "list[Problem]"
    bad: set[int]
    used: int

    def __iter__(self) -> Iterator[list[Any]]:
        """Yields the steps from the position to the end of its epoch, each a list of this rank's micro-batches."""

    def total_steps(self, epochs: int) -> int:
        """Steps of so many epochs; raises ConfigError if there is none."""

    def steps(self, epoch: int) -> int:
        """Steps of an epoch."""

    def state_dict(self) -> dict[str, int]:
        """The position of the next step."""

    def set_position(self, epoch: int, step: int) -> None:
        """Makes ``step`` of ``epoch`` the next one."""


class DataConfig(Protocol):
    """Where data of one kind is and how it is read.

    Attributes:
        unit: what `MicroBatch.size` counts.
        train: files to train on.
        valid: files to validate on.
        test: files for the last evaluation.
    """

    unit: ClassVar[str]
    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]

    def read(self, paths: Sequence[Any], task: Any, files: Mapping[str, bytes] = EMPTY) -> Examples:
        """Reads the files of one set for a task's config, whose tokenizer may read ``files``.

        Raises:
            DataError: a file does not exist, or they hold nothing to use.
        """

    def shared(self, loaders: int = 1) -> Any:
        """What so many loaders of a process share, such as a cache; None if nothing."""

    def loader(
        self,
        index: Any,
        encode: Callable[[str], Sequence[int]],
        *,
        training: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        batches_per_step: int | None = None,
        shared: Any = None,
    ) -> StepLoader:
        """Makes the loader of one rank.

        Args:
            index: what `read` gave.
            encode: target text -> what the task learns.
            training: steps in an order of the epoch's own, or every row once, a micro-batch a step.
            seed: of the run.
            rank: of this process, among those that read different data.
            world: number of them.
            batches_per_step: micro-batches of an optimizer step over all ranks; a multiple of ``world``.
            shared: what `shared` gave.
        """
