"""Augmentation on disk: changed copies of the recordings of a data set, made once, for any training to read.

Copy k of an utterance holds the samples that training with the same recipe and seed hears in epoch k, rounded to 16
bits: 1 is 32,768, halves go to the even side, what is beyond is clipped. 16-bit recordings at the same rate that no
step changes thus come out as they were.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import yaml

from anemone.config import must
from anemone.data import jobs
from anemone.data.audio import Recordings, Signal
from anemone.data.augmentation import Recipe, augment
from anemone.data.jobs import Done, Job, Line, Report, Tell, Unit
from anemone.data.loader import SpeechDataConfig
from anemone.data.manifest import Index
from anemone.data.named_rows import NamedRows, read_source
from anemone.data.problems import Problem
from anemone.data.shards import bounds, files_of, tar_of, wav, write_manifests
from anemone.errors import DataError

CACHE_MB = 64  # of decoded recordings in each process: utterances may be pieces of a long one


@dataclass(frozen=True, kw_only=True)
class OfflineConfig:
    """What copies are made, and how they are kept."""

    recipe: Recipe
    """What happens to a copy."""

    copies: int = 1
    """Changed copies of an utterance, numbered from 1."""

    seed: int = 0
    """Of the draws; that of a training that is to hear the same."""

    rate: int = 16_000
    """Samples per second; recordings of another rate are resampled."""

    channel: int | None = None
    """Which channel to take, from 0; the mean of all if null."""

    format: Literal["wav", "flac"] = "wav"
    """What is written: 16-bit PCM, or the same samples in FLAC."""

    shards: int | None = None
    """Number of tars; files in folders if neither this nor `shard_mb` is given."""

    shard_mb: float | None = None
    """MiB of a tar, as WAV."""

    new_speakers: bool = False
    """Whether a copy whose speed changed is of another speaker, as in Kaldi's recipes: ``sp0.9-ann``."""

    keep_original: bool = True
    """Whether the unchanged recording is written, too, as copy 0."""

    def __post_init__(self) -> None:
        least = 0 if self.keep_original else 1
        must(least <= self.copies <= 10_000, "copies", f"in {least}..10000", value=self.copies)
        must(self.seed >= 0, "seed", "0 or more", value=self.seed)
        must(self.format in ("wav", "flac"), "format", "wav or flac", value=self.format)
        both = self.shards is not None and self.shard_mb is not None
        must(not both, "shard_mb", "left out where `shards` is given", value=self.shard_mb)
        self.recipe.refuse_online()
        SpeechDataConfig(rate=self.rate, channel=self.channel)

    @property
    def numbers(self) -> range:
        """Numbers of the copies; 0 is the unchanged recording."""
        return range(0 if self.keep_original else 1, self.copies + 1)

    @property
    def tarred(self) -> bool:
        """Whether tars are written."""
        return self.shards is not None or self.shard_mb is not None


class Augmentation(NamedTuple):
    """The work on a unit of utterances, in whichever process.

    Attributes:
        config: what copies are made.
        tool: our name and version.
        target: key of what is learned, "text" or "label".
    """

    config: OfflineConfig
    tool: str
    target: str

    def __call__(self, unit: Unit, out: Path) -> Done:
        """Writes the copies of some utterances."""
        sink = tar_of(out, unit.number) if self.config.tarred else files_of(out, unit.rows[0]["number"])
        lines, problems = [], []
        with sink as put:
            for row in unit.rows:
                try:
                    audio = self.read(row)
                except DataError as error:
                    problems.append(Problem(row["source"], row["line"], str(error)))
                    continue
                for copy in self.config.numbers:
                    samples, line = self.copy(audio, row, copy)
                    placed = put(f"{row['stem']}_c{copy}.{self.config.format}", self.encoded(samples))
                    lines.append({"id": line.pop("id"), **placed, **line})
        return Done(lines, problems)

    def read(self, row: Line) -> Signal:
        """Returns the recording of a row, as the loader's workers read it.

        Raises:
            DataError: it cannot be read.
        """
        recordings = _recordings(self.config.rate, self.config.channel)
        return recordings.piece(row["audio"], row["offset"], row["duration"], channel=row.get("channel"))

    def copy(self, audio: Signal, row: Line, number: int) -> tuple[npt.NDArray[np.int16], Line]:
        """Returns the samples of one copy, and what the manifest says of it."""
        config = self.config
        drawn: Line = {}
        if number:
            audio, drawn = augment(audio, config.rate, config.recipe, seed=config.seed, id=row["id"], copy=number)
        samples, clipped = pcm16(audio)
        line = {
            "id": f"{row['name']}_c{number}",
            "duration": round(len(samples) / config.rate, 6),
            self.target: row["target"],
            **{key: value for key, value in row["further"].items() if key != "channel"},
            "source": f"{row['source']}:{row['line']}",
            "source_id": row["id"],
            "copy": number,
            "augmentation": drawn,
            "recipe": config.recipe.digest,
            "seed": config.seed,
            "tool": self.tool,
        }
        if clipped:
            line["clipped"] = clipped
        if config.new_speakers and line.get("speaker") is not None:
            line["speaker"] = speed_prefix(drawn) + str(line["speaker"])
        return samples, line

    def encoded(self, samples: npt.NDArray[np.int16]) -> bytes:
        """Returns the bytes of a file of samples."""
        if self.config.format == "wav":
            return wav(samples, self.config.rate)
        file = BytesIO()
        soundfile.write(file, samples, self.config.rate, format="FLAC", subtype="PCM_16")
        return file.getvalue()


@functools.lru_cache(maxsize=1)
def _recordings(rate: int, channel: int | None) -> Recordings:
    """What reads recordings in this process."""
    return SpeechDataConfig(rate=rate, channel=channel, cache_mb=CACHE_MB).shared()


def pcm16(audio: Signal) -> tuple[npt.NDArray[np.int16], int]:
    """Returns samples as 16-bit PCM, and how many were clipped."""
    scaled = np.rint(audio * np.float32(32768))
    loud = 0
    if len(scaled) and (scaled.max() > 32767 or scaled.min() < -32768):
        loud = int(np.count_nonzero((scaled > 32767) | (scaled < -32768)))
        scaled = np.clip(scaled, -32768, 32767)
    return scaled.astype("<i2"), loud


def speed_prefix(drawn: Line) -> str:
    """Returns what Kaldi writes before the name of a speaker whose speech was made faster or slower: ``sp0.9-``.

    Example:
        >>> speed_prefix({"speed": {"factor": 1.25}}), speed_prefix({"gain": {"db": 3.0}})
        ('sp0.8-', '')
    """
    length = np.prod([step["factor"] for name, step in drawn.items() if name.partition(".")[0] == "speed"])
    return "" if length == 1 else f"sp{1 / length:.3g}-"


def augment_offline(
    source: Sequence[str | Path], out: str | Path, config: OfflineConfig, *, engine: jobs.Engine, tell: Tell
) -> Report:
    """Writes changed copies of all utterances of some manifests and a manifest of them; goes on where it was killed.

    Args:
        source: manifests, or what else is a source.
        out: folder for the recordings, ``manifest.jsonl``, ``problems.jsonl`` and samples to listen to.
        config: what copies are made.
        engine: what does the work; see `anemone.data.engines`.
        tell: is told of how many more utterances are done.

    Raises:
        DataError: the source holds nothing to use, or the folder holds something else.
        ConfigError: a step of the recipe cannot be carried out on disk.
    """
    index, target = read_source(source)
    folder = Path(out).expanduser()
    work = Augmentation(config, f"anemone {version('anemone')}", target)
    with jobs.folder_of(folder, _said(index, work)) as finished:
        if not finished:
            job = Job(work=work, bounds=_bounds(index, config), rows=NamedRows(index))
            jobs.run(job, folder, engine=engine, tell=tell)
            _finish(job, folder, index)
        return jobs.report(folder, index)


def _said(index: Index, work: Augmentation) -> Line:
    """What the result depends on."""
    config = work.config
    names = ["copies", "seed", "rate", "channel", "format", "shards", "shard_mb", "new_speakers", "keep_original"]
    return {
        "verb": "augment",
        "tool": work.tool,
        "source": jobs.identity(index),
        "recipe": config.recipe.digest,
        "target": work.target,
        **{name: getattr(config, name) for name in names},
    }


def _bounds(index: Index, config: OfflineConfig) -> list[int]:
    if not config.tarred:
        return [*range(0, len(index), jobs.SPARE), len(index)]
    sizes = np.ceil(index.durations.astype(np.float64) * config.rate) * 2 * len(config.numbers)
    return bounds(sizes, shards=config.shards, shard_mb=config.shard_mb)


def _finish(job: Job, out: Path, index: Index) -> None:
    """Makes the manifest, what is beside it, and samples to see and to hear."""
    from anemone.data.offline_summary import summarise

    work: Any = job.work
    jobs.place(out, "recipe.yaml", yaml.safe_dump(work.config.recipe.tree, sort_keys=False).encode())
    summarise(job, out, index)
    write_manifests(job, out, index.problems, tarred=work.config.tarred)
