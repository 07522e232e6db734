"""Training on features of Kaldi: where they are, and micro-batches of them, by the loader of recordings.

Plans, steps, workers, positions and reports are those of `anemone.data.loader`; durations are frames times ``hop_ms``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import Dataset

from anemone.config import EMPTY, must
from anemone.data.batch import collate_features
from anemone.data.epochs import Key
from anemone.data.kaldi.cmvn import Norm
from anemone.data.kaldi.dataset import KaldiFeatureDataset, Matrices
from anemone.data.loader import make_loader
from anemone.data.manifest import Index
from anemone.data.plan import PlanConfig
from anemone.data.reader import Loaded
from anemone.data.targets import Encode, row_encode
from anemone.errors import DataError


@dataclass(frozen=True, kw_only=True)
class KaldiDataConfig:
    """Where Kaldi's features are and how they are read."""

    unit: ClassVar[str] = "audio_seconds"
    """What the speed of training is measured in."""

    train: tuple[str, ...] = ()
    """Data directories, or paths of a ``feats.scp``, to train on."""

    valid: tuple[str, ...] = ()
    """Data directories to validate on."""

    test: tuple[str, ...] = ()
    """Data directories for the last evaluation."""

    plan: PlanConfig = PlanConfig()
    """How utterances become micro-batches in training."""

    hop_ms: float = 10.0
    """Time from frame to frame, in milliseconds."""

    cmvn: Norm = "none"
    """What to normalise by ``cmvn.scp``: mean, or mean and variance, of each speaker or else each utterance."""

    trust_commands: bool = False
    """Whether commands in ``feats.scp`` may run, with all your rights."""

    pad_frames: int = 1
    """Frames of zeros behind the longest utterance of a batch: log-mel energies of audio have one, and batch norm sees
    it."""

    num_workers: int = 0
    """Processes that read ahead; 0 reads in the training process itself."""

    eval_batch_size: int = 32
    """Utterances in a batch of an evaluation."""

    skip_bad: bool = True
    """Whether utterances that cannot be used are reported and left out, or end the run."""

    def __post_init__(self) -> None:
        sets, weights = len(self.train), self.plan.weights
        alike = not weights or len(weights) == sets or not sets
        must(alike, "plan.weights", f"one for each of `data.train` ({sets})", value=list(weights))
        must(self.hop_ms > 0, "hop_ms", "above 0", value=self.hop_ms)
        must(self.pad_frames >= 0, "pad_frames", "0 or more", value=self.pad_frames)
        must(self.num_workers >= 0, "num_workers", "0 or more", value=self.num_workers)
        must(self.eval_batch_size >= 1, "eval_batch_size", "1 or more", value=self.eval_batch_size)

    def read(self, paths: Sequence[str | Path], task: Any, files: Mapping[str, bytes] = EMPTY) -> KaldiFeatureDataset:
        """Reads data directories; of the task's config it asks what to learn from, ``target``.

        Raises:
            DataError: a directory does not exist, or they hold nothing to use.
        """
        return KaldiFeatureDataset.read(
            paths,
            target=task.target,
            skip_bad=self.skip_bad,
            hop_ms=self.hop_ms,
            trust_commands=self.trust_commands,
        )

    def shared(self, loaders: int = 1) -> Matrices:
        """What reads features for all loaders of a process."""
        return Matrices(self.cmvn)

    def reader(
        self, index: Index, encode: Encode, *, training: bool, seed: int, shared: Matrices | None = None
    ) -> "FeatureReader":
        """Makes what reads the utterances of a micro-batch; arguments are those of `loader`."""
        return FeatureReader(index, shared or self.shared(), encode, self)

    loader = make_loader


class FeatureReader(Dataset[Loaded]):
    """Makes micro-batches of features: matrices, tokens, padding. Runs in the workers.

    Args:
        index: the utterances.
        matrices: gives their features.
        encode: target text -> tokens or class number; raises DataError for one it does not know.
        config: time between frames, and padding.
    """

    def __init__(self, index: Index, matrices: Matrices, encode: Encode, config: KaldiDataConfig) -> None:
        self.index, self.matrices, self.targets, self.config = index, matrices, row_encode(encode), config
        self.width = index.width if isinstance(index, KaldiFeatureDataset) else None

    def __getitem__(self, key: Key) -> Loaded:
        """Returns the micro-batch of some rows, None if none of them can be used, and what is wrong with the others."""
        _, numbers = key
        chosen, targets, rows, failures = [], [], [], []
        found = self.matrices.of(self.index, numbers.tolist())
        values = self.index.values(numbers, self.targets.columns)
        for number, row, more, matrix in zip(numbers.tolist(), self.index.rows(numbers), values, found, strict=True):
            try:
                if isinstance(matrix, DataError):
                    raise matrix
                self.width = self.width or matrix.shape[1]
                if matrix.shape[1] != self.width:
                    raise DataError(
                        f"`{row.audio}` must have the width of the first utterance, {self.width}, "
                        f"but has {matrix.shape[1]} features a frame."
                    )
                targets.append(self.targets.of(row.target, more))
            except DataError as error:
                failures.append((number, str(error)))
                continue
            chosen.append(matrix)
            rows.append(number)
        if not rows:
            return None, failures
        tokens, prompt_len = self.targets.joined(targets)
        hop, pad_frames = self.config.hop_ms / 1000, self.config.pad_frames
        batch = collate_features(chosen, tokens, rows, hop=hop, pad_frames=pad_frames, prompt_len=prompt_len)
        return batch, failures
