"""Sound files, any of which may be broken or hostile: what is read is bounded by what is asked for, not by a header.

A header may claim any length, rate or number of channels, and kilobytes may decode to gigabytes. So samples are
decoded little by little, mixed to one channel at once, and no more of them than a caller wants.
"""

import os
import stat

import numpy as np
import numpy.typing as npt
import soundfile

from anemone.data.locators import is_file, open_audio
from anemone.errors import DataError

Signal = npt.NDArray[np.float32]

RATES = 1_000, 1_000_000  # samples per second that a recording may have
MOST = 2**29  # samples of one channel decoded at once: 9.3 hours at 16 kHz, 2 GiB
ENDLESS = 2**63 - 1  # frames of a recording that does not say how many it has
VALUES = 2**21  # samples of all channels decoded at a time


class SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A recording that is read on from where it is.

    soundfile would go to where it should be after each reading, which fails at the end of a file that is shorter than
    it says or does not say how long it is.
    """

    def seekable(self) -> bool:
        """False, though `seek` works."""
        return False


def open_sound(name: str) -> SoundFile:
    """Opens a recording.

    Args:
        name: a path, or another locator (`anemone.data.locators`).

    Raises:
        DataError: it is not there, no plain file, cannot be decoded, or has an impossible rate; names it.
    """
    try:
        found = open_audio(name)
        if isinstance(found, str) and not stat.S_ISREG(os.stat(found).st_mode):
            raise DataError(_refusal(name, "is no plain file"))
        file = SoundFile(found)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(_refusal(name, error)) from error
    if not RATES[0] <= file.samplerate <= RATES[1]:
        file.close()
        raise DataError(f"`{name}` must have {RATES[0]} to {RATES[1]} samples per second, but has {file.samplerate}.")
    return file


def read_mono(name: str, file: SoundFile, *, start: int, frames: int, channel: int | None) -> Signal:
    """Returns samples (S,) of one channel or of the mean of all; fewer than ``frames`` where the recording ends.

    Args:
        name: of the recording.
        file: it, open.
        start: first frame.
        frames: number of them; of more than `MOST` no more are read.
        channel: which one, from 0; the mean of all if None.

    Raises:
        DataError: there is no such channel, or what is there cannot be decoded.
    """
    if channel is not None and not 0 <= channel < file.channels:
        raise DataError(f"`{name}` has {file.channels} channel(s), so there is no channel {channel}.")
    audio = np.empty(min(max(0, min(frames, file.frames - start)), MOST), np.float32)
    done, step = 0, max(1, VALUES // file.channels)
    try:
        if start and len(audio):
            file.seek(start)
        while done < len(audio):
            wanted = audio[done : done + step]
            count = _fill(file, wanted, channel)
            done += count
            if count < len(wanted):
                break
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise DataError(_refusal(name, error)) from error
    return audio if done == len(audio) else audio[:done].copy()  # a header may have claimed much more


def _fill(file: SoundFile, audio: Signal, channel: int | None) -> int:
    """Decodes frames into an array (S,) and returns how many there were."""
    if file.channels == 1:
        return len(file.read(out=audio))
    block = file.read(len(audio), dtype="float32", always_2d=True)
    mixed = audio[: len(block)]
    mixed[:] = block[:, channel or 0]
    if channel is None:
        for other in range(1, file.channels):  # a mean over so short an axis takes ten times as long
            mixed += block[:, other]
        mixed /= file.channels
    return len(block)


def _refusal(name: str, cause: Exception | str) -> str:
    """Why a recording could not be opened or decoded."""
    if is_file(name):
        if not os.path.isfile(name):
            kind = "is a folder" if os.path.isdir(name) else "is no plain file"
            return f"`{name}` must be an audio file, but {kind if os.path.exists(name) else 'does not exist'}."
        if not os.path.getsize(name):
            return f"`{name}` must be an audio file, but is empty."
    text = cause.error_string if isinstance(cause, soundfile.LibsndfileError) else str(cause)
    return f"`{name}` cannot be decoded: {str(text).rstrip('.')}."
