"""Data sets as tars: shards that are the same bytes at every run, and manifests that find a recording in them.

``manifest.jsonl`` says where in its tar each recording lies, so that any is read at once. With NeMo's names,
``audio__OP_0..N_CL_.tar`` and ``tarred_audio_manifest.json``, the same tars are a tarred set of NeMo's. Recordings that
are utterances as a whole go in byte by byte; a piece of one is cut out at its own rate, and stored without loss where
its coding has none.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from anemone.data import jobs
from anemone.data.audio import RUN_UP, TOLERANCE
from anemone.data.jobs import Done, Job, Report, Tell, Unit
from anemone.data.locators import is_file, locate, open_audio, read_audio
from anemone.data.manifest import Index
from anemone.data.named_rows import NamedRows, read_source
from anemone.data.problems import Problem
from anemone.data.shards import bounds, tar_of, wav, write_manifests
from anemone.errors import DataError

WHOLE = 0.011  # seconds that the duration of a whole recording may be short of it: rounded to hundredths
UNKNOWN = 32_000  # bytes of a second where there is no file to look at
# coding of a recording -> how it is read, and the coding of a piece in FLAC; None is WAV
PIECES = {
    "PCM_24": ("int32", "PCM_24"),
    "PCM_32": ("int32", None),
    "FLOAT": ("float32", None),
    "DOUBLE": ("float64", None),
}
PCM = ("int16", "PCM_16")
MOST_CHANNELS = 8  # of FLAC


class Sharding(NamedTuple):
    """The work on one shard, in whichever process.

    Attributes:
        target: key of what is learned, "text" or "label".
    """

    target: str

    def __call__(self, unit: Unit, out: Path) -> Done:
        """Writes a tar."""
        lines, problems = [], []
        with tar_of(out, unit.number) as put:
            for row in unit.rows:
                try:
                    data, ending = recording(row["audio"], row["offset"], row["duration"])
                except DataError as error:
                    problems.append(Problem(row["source"], row["line"], str(error)))
                    continue
                placed = put(f"{row['stem']}.{ending}", data)
                own = {"duration": row["duration"], self.target: row["target"], **row["further"]}
                lines.append({"id": row["name"], **own, **placed})
        return Done(lines, problems)


def recording(audio: str, offset: float, duration: float) -> tuple[bytes, str]:
    """Returns the bytes of a recording or of a piece of one, and the ending of its name.

    Raises:
        DataError: it cannot be read, or is shorter than the piece.
    """
    try:
        found = open_audio(audio)
        with soundfile.SoundFile(found) as file:
            seconds = file.frames / file.samplerate
            if seconds < offset + duration - TOLERANCE[0] - TOLERANCE[1] * duration:
                raise DataError(
                    f"`{audio}` holds {seconds:.2f} s, {duration:g} s from second {offset:g} were asked for."
                )
            if offset or seconds - duration > WHOLE:
                return _piece(file, offset, duration)
            ending = file.format.lower().removesuffix("ex")
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"`{audio}` {_cause(audio, error)}.") from error
    return read_audio(audio), ending


def _cause(audio: str, error: Exception) -> str:
    """Why a recording cannot be read."""
    if is_file(audio) and not os.path.isfile(audio):
        return "must be an audio file, but does not exist"
    cause = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
    return f"cannot be read: {str(cause).rstrip('.')}"


def _piece(file: soundfile.SoundFile, offset: float, duration: float) -> tuple[bytes, str]:
    """Seconds of a recording at its own rate, as a file."""
    dtype, coding = PIECES.get(file.subtype, PCM)
    start, count = round(offset * file.samplerate), round(duration * file.samplerate)
    before = min(start, RUN_UP * file.samplerate)  # what a decoder that jumps needs
    file.seek(start - before)
    samples = file.read(before + count, dtype=dtype, always_2d=True)[before:]
    if coding is None or file.channels > MOST_CHANNELS:
        return wav(samples, file.samplerate), "wav"
    piece = BytesIO()
    soundfile.write(piece, samples, file.samplerate, format="FLAC", subtype=coding)
    return piece.getvalue(), "flac"


def shard(
    source: Sequence[str | Path],
    out: str | Path,
    *,
    shards: int | None = None,
    shard_mb: float | None = None,
    engine: jobs.Engine,
    tell: Tell,
) -> Report:
    """Writes the utterances of some manifests as tars, with manifests of them; goes on where it was killed.

    Args:
        source: manifests, or what else is a source.
        out: folder for them.
        shards: number of tars, of about as many utterances each.
        shard_mb: MiB of a tar at most, in the place of their number.
        engine: what does the work; see `anemone.data.engines`.
        tell: is told of how many more utterances are done, of how many.

    Raises:
        DataError: the source holds nothing to use, or the folder holds something else.
        ConfigError: an impossible number or size of tars.
    """
    index, target = read_source(source)
    folder = Path(out).expanduser()
    sizes = _sizes(index) if shards is None else np.zeros(len(index))
    job = Job(
        work=Sharding(target),
        bounds=bounds(sizes, shards=shards, shard_mb=shard_mb),
        rows=NamedRows(index),
    )
    said = {
        "verb": "shard",
        "tool": f"anemone {version('anemone')}",
        "source": jobs.identity(index),
        "shards": len(job),
        "target": target,
    }
    with jobs.folder_of(folder, said) as finished:
        if not finished:
            jobs.run(job, folder, engine=engine, tell=tell)
            write_manifests(job, folder, index.problems, tarred=True)
        return jobs.report(folder, index)


def _sizes(index: Index) -> npt.NDArray[np.float64]:
    """Bytes of each utterance, about: a piece has its share of the recording's."""
    audios = index.table["@audio"].to_pylist()
    seconds: dict[str, float] = defaultdict(float)
    for audio, duration in zip(audios, index.durations.tolist(), strict=True):
        seconds[audio] += duration
    rates = {audio: _size(audio, whole) / whole for audio, whole in seconds.items()}
    sizes: npt.NDArray[np.float64] = index.durations * np.array([rates[audio] for audio in audios])
    return sizes


def _size(audio: str, seconds: float) -> float:
    """Bytes of a recording, a guess where it is no file."""
    size = locate(audio).size
    if size is None and is_file(audio) and os.path.isfile(audio):
        size = os.path.getsize(audio)
    return UNKNOWN * seconds if size is None else float(size)
