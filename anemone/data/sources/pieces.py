"""Recordings as files of their own: copied as they are, or cut with every sample kept."""

import functools
import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from anemone.data.ids import file_stem
from anemone.data.locators import is_file, locate, read_audio, suffix
from anemone.data.soundfiles import open_sound
from anemone.data.sources import Utterance
from anemone.errors import DataError

SUFFIXES = {"WAV": ".wav", "WAVEX": ".wav", "FLAC": ".flac", "OGG": ".ogg", "MP3": ".mp3", "AIFF": ".aiff", "AU": ".au"}
"""Of libsndfile's formats."""

KEPT = {"PCM_16": "int16", "PCM_24": "int32", "PCM_32": "int32", "FLOAT": "float32", "DOUBLE": "float64"}
"""Codings that a WAV of a piece has too, and the type that holds their samples; 8 bits become 16, lossy ones floats."""

EXACT = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
"""Codings that decode alike wherever one starts."""

RUN_UP = 1  # seconds that other decoders begin earlier
ENDLESS = 2**62  # frames of a file that does not say
TAIL = 0.05  # seconds that a copied file may go on after its utterance
MOST = 1 << 31  # bytes of a piece


class Header(NamedTuple):
    """What a recording says of itself.

    Attributes:
        rate: samples per second.
        frames: samples of a channel.
        channels: number of them.
        subtype: libsndfile's name of the coding.
        suffix: ending of its file's name.
    """

    rate: int
    frames: int
    channels: int
    subtype: str
    suffix: str

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.rate


@functools.lru_cache(maxsize=4096)
def header(audio: str) -> Header:
    """Returns what a recording says of itself.

    Raises:
        DataError: it is not there, or no audio.
    """
    with open_sound(audio) as file:
        ending = suffix(audio) or SUFFIXES.get(file.format, ".wav")
        found = Header(file.samplerate, file.frames, file.channels, file.subtype, ending)
    if not 0 < found.frames < ENDLESS:
        raise DataError(f"`{audio}` must hold audio and say how much, but holds none or does not say.")
    return found


def seconds(utterance: Utterance) -> float:
    """Returns an utterance's length, from its recording where it does not say.

    Raises:
        DataError: the recording cannot be read, or ends before the utterance begins.
    """
    if utterance.duration is not None:
        return utterance.duration
    left = header(utterance.audio).seconds - utterance.offset
    if left <= 0:
        raise DataError(f"`{utterance.audio}` holds no audio from second {utterance.offset:g} on.")
    return left


def is_whole(utterance: Utterance, tail: float = TAIL) -> bool:
    """Whether an utterance is all of its recording, but for so many seconds at the end."""
    about = header(utterance.audio)
    if utterance.offset or (utterance.channel is not None and about.channels > 1):
        return False
    return utterance.duration is None or round((utterance.duration + tail) * about.rate) >= about.frames


def piece(utterance: Utterance, tail: float = TAIL) -> tuple[bytes, str]:
    """Returns a file with an utterance alone, and the ending of its name: the recording's own, or a WAV cut out of it.

    Its channel is the only one there, where the utterance has one.

    Args:
        utterance: what to cut.
        tail: seconds that a recording may be longer and still be taken as it is.

    Raises:
        DataError: its recording cannot be read, or has no such channel or second.
    """
    if is_whole(utterance, tail):
        return read_audio(utterance.audio), header(utterance.audio).suffix
    samples, rate, subtype = cut(utterance)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype=subtype, format="WAV")
    return file.getvalue(), ".wav"


def cut(utterance: Utterance) -> tuple[npt.NDArray[Any], int, str]:
    """Returns the samples (S,) or (S, channels) of an utterance as they are stored, their rate, and a WAV's coding.

    Raises:
        DataError: its recording cannot be read, or has no such channel or second.
    """
    about, channel = header(utterance.audio), utterance.channel
    if channel is not None and channel >= about.channels:
        raise DataError(f"`{utterance.audio}` has {about.channels} channel(s), so there is no channel {channel}.")
    exact = about.subtype.startswith(EXACT)
    subtype = about.subtype if about.subtype in KEPT else "PCM_16" if exact else "FLOAT"
    start = round(utterance.offset * about.rate)
    count = about.frames - start if utterance.duration is None else round(utterance.duration * about.rate)
    count = min(count, about.frames - start)
    before = 0 if exact else start - max(0, start // about.rate - RUN_UP) * about.rate
    if count <= 0:
        raise DataError(f"`{utterance.audio}` holds no audio from second {utterance.offset:g} on.")
    if count * about.channels * 4 > MOST:
        raise DataError(f"`{utterance.audio}` must be cut into pieces below 2 GiB.")
    try:
        with open_sound(utterance.audio) as file:
            file.seek(start - before)
            samples = file.read(before + count, dtype=KEPT[subtype], always_2d=True)[before:]
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise DataError(f"`{utterance.audio}` cannot be decoded: {str(error).rstrip('.')}.") from error
    samples = samples if channel is None else samples[:, channel]
    return np.ascontiguousarray(samples), about.rate, subtype


def as_file(audio: str, folder: Path) -> str:
    """Returns the path of a recording, copied into a folder where it is a piece of a file or a URL.

    Raises:
        DataError: it cannot be read.
    """
    if is_file(audio):
        return os.path.abspath(audio)
    place = locate(audio)
    stem = file_stem(Path(place.member or place.path).name.partition(".")[0])
    path = folder / f"{stem[:40]}-{hashlib.sha256(audio.encode()).hexdigest()[:12]}{header(audio).suffix}"
    if not path.exists():
        put(path, read_audio(audio))
    return os.path.abspath(path)


def put(path: Path, data: bytes) -> None:
    """Writes a file, wholly or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
