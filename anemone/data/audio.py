"""Recordings in: decoding, channels, resampling and pieces by offset.

What a piece of a recording holds depends on the file, offset and duration, never on what was read before or is still
in memory. Without a cache a piece is decoded where it lies; with one it is cut out of blocks of half a minute that are
kept. Where decoding depends on its start, a fresh decoder starts a second early: a lossy decoder that jumps needs a
run-up (measured with libsndfile 1.2.2: MP3 and Vorbis are then equal to a decoding from the start, Opus below 48 kHz
differs by 2e-3 at most and 1e-4 in the mean, with a cache or without), and a resampler must see what is beside.
"""

import math
import os
from collections import OrderedDict
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soxr
import torch

from anemone.data.soundfiles import MOST, RATES, SoundFile, open_sound, read_mono
from anemone.data.soundfiles import Signal as Signal
from anemone.errors import DataError

BLOCK = 30  # seconds decoded at a time
RUN_UP = 1  # seconds decoded and thrown away before and after a block
TOLERANCE = 0.1, 0.01  # a piece may be shorter than asked for by 0.1 s + 1 %: rounded durations, codec padding
LOUDEST = 1e4  # samples of floats beyond it are no audio, which lies in [-1, 1]; sixteen-bit PCM reaches 32,768
OVERHEAD = 512  # bytes a kept block costs besides its samples
GUESSED = ("MPEG",)  # codings whose length a header only guesses
EXACT = "PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW"  # codings (FLAC's is PCM_16) that decode alike wherever one starts


def load_audio(
    path: str | Path,
    rate: int = 16_000,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    channel: int | None = None,
) -> Signal:
    """Returns a recording, or a piece of it, as mono float32 (S,) in [-1, 1].

    Args:
        path: wav, flac, ogg (Vorbis or Opus), mp3, or what else libsndfile reads; or a locator, such as a URL.
        rate: samples per second of the result; the recording is resampled if it has another.
        offset: seconds to leave out at the beginning.
        duration: seconds to take; all that is left if None.
        channel: which channel; the mean of all if None.

    Raises:
        DataError: missing, undecodable or empty file, no such channel, or less audio than asked for; names the file.
    """
    return Recordings(rate, channel=channel).piece(path, offset, duration)


class Recordings:
    """Pieces of recordings at one rate; decoded blocks stay in memory up to a limit, the least used go first.

    Args:
        rate: samples per second of the pieces.
        channel: which channel; the mean of all if None.
        cache_mb: MiB of decoded audio to keep.
    """

    def __init__(self, rate: int, *, channel: int | None = None, cache_mb: float = 0) -> None:
        self.rate, self.channel = rate, channel
        self.cache_mb = cache_mb
        self._free = int(cache_mb * 2**20)
        self._keeps = self._free > 0
        self._blocks: OrderedDict[tuple[str, int | None, int], Signal] = OrderedDict()

    def piece(
        self, path: str | Path, offset: float = 0.0, duration: float | None = None, *, channel: int | None = None
    ) -> Signal:
        """Returns samples (S,) from ``offset`` seconds on; do not write to them, the cache may own them.

        Args:
            path: of the recording, or another locator.
            offset: seconds into it.
            duration: seconds to take; all that is left if None.
            channel: which channel, where it is not that of all recordings.

        Raises:
            DataError: missing, undecodable or empty file, no such channel, less audio than asked for, or more of it
                than fits.
        """
        name = os.fspath(path)
        most = MOST / self.rate
        if not (0 <= offset <= most * 2**10 and (duration is None or 0 < duration <= most)):
            raise DataError(f"`{name}` must be read from second 0 or later, at most {most:.0f} s at a time.")
        start = round(offset * self.rate)
        stop = start + (MOST if duration is None else round(duration * self.rate))
        asked = _Piece(name, start, stop, self.channel if channel is None else channel, duration)
        audio = self._cut(asked)
        if duration is None and len(audio) >= MOST:
            raise DataError(f"`{name}` is longer than {most:.0f} s: read it piece by piece, by offset and duration.")
        asked.check_length(len(audio), self.rate)
        if not -LOUDEST <= audio.min() <= audio.max() <= LOUDEST:  # neither is a NaN
            finite = np.isfinite(audio).all()
            cause = f"reach {np.abs(audio).max():g}: audio lies in [-1, 1]" if finite else "are not finite"
            raise DataError(f"`{name}` holds samples that {cause}.")
        return audio

    def _cut(self, asked: "_Piece") -> Signal:
        """A piece at our rate; shorter where the recording ends."""
        name, start, stop = asked.name, asked.start, asked.stop
        whole = start == 0 and asked.duration is None
        if not self._keeps or whole:
            with open_sound(name) as file:
                asked.check_header(file, self.rate)
                if whole:
                    audio = read_mono(name, file, start=0, frames=MOST, channel=asked.channel)
                    return resample(audio, file.samplerate, self.rate)
                if file.samplerate == self.rate and file.subtype.startswith(EXACT):
                    return read_mono(name, file, start=start, frames=stop - start, channel=asked.channel)
                first = start // self.rate
                audio = self._seconds(asked, file, first, -(-stop // self.rate))
                return audio[start - first * self.rate : stop - first * self.rate]
        size = BLOCK * self.rate
        parts = []
        for number in range(start // size, -(-stop // size)):
            block = self._block(asked, number)
            parts.append(block[max(0, start - number * size) : stop - number * size])
            if len(block) < size:
                break
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _block(self, asked: "_Piece", number: int) -> Signal:
        """Block ``number`` of a recording at our rate, from memory if it is there; the last one is shorter."""
        key = asked.name, asked.channel, number
        if key in self._blocks:
            self._blocks.move_to_end(key)
        else:
            with open_sound(asked.name) as file:
                asked.check_header(file, self.rate)
                self._keep(key, self._seconds(asked, file, number * BLOCK, (number + 1) * BLOCK))
        return self._blocks[key]

    def _seconds(self, asked: "_Piece", file: SoundFile, first: int, last: int) -> Signal:
        """Seconds [first, last) at our rate, decoded with a run-up; fewer where the recording ends."""
        before, after = min(first, RUN_UP), RUN_UP if file.samplerate != self.rate else 0
        start, frames = (first - before) * file.samplerate, (last - first + before + after) * file.samplerate
        audio = read_mono(asked.name, file, start=start, frames=frames, channel=asked.channel)
        return resample(audio, file.samplerate, self.rate)[before * self.rate :][: (last - first) * self.rate]

    def _keep(self, key: tuple[str, int | None, int], audio: Signal) -> None:
        """Remembers a block and forgets the least used ones to make room."""
        self._blocks[key] = audio.copy()  # without the run-up that is beside it in memory
        self._free -= audio.nbytes + OVERHEAD
        while self._free < 0 and len(self._blocks) > 1:
            self._free += self._blocks.popitem(last=False)[1].nbytes + OVERHEAD


class _Piece(NamedTuple):
    """What was asked for: samples [start, stop) at our rate of one channel or the mean of all."""

    name: str
    start: int
    stop: int
    channel: int | None
    duration: float | None

    def check_header(self, file: SoundFile, rate: int) -> None:
        """Refuses a recording whose header says that it is too short, before any of it is decoded."""
        if not file.subtype.startswith(GUESSED):
            self.check_length(max(0, file.frames * rate // file.samplerate - self.start), rate)

    def check_length(self, samples: int, rate: int) -> None:
        """Refuses a piece of so many samples if that is too short."""
        offset, seconds = self.start / rate, samples / rate
        if not samples:
            raise DataError(f"`{self.name}` holds no audio from second {offset:g} on.")
        if self.duration is not None and seconds < self.duration - TOLERANCE[0] - TOLERANCE[1] * self.duration:
            asked = f"{self.duration:g} s were asked for"
            raise DataError(f"`{self.name}` holds {seconds:.2f} s from second {offset:g} on, {asked}.")


def resample(audio: Signal, source: int, target: int) -> Signal:
    """Returns audio (S,) of ``source`` samples per second at ``target`` (soxr, high quality)."""
    if source == target or not len(audio):
        return audio
    resampled: Signal = soxr.resample(audio, source, target)
    return resampled


def waveform(source: Any, rate: int) -> Signal:
    """Returns mono float32 (S,) of whatever a person may hold in hand.

    Args:
        source: a path; a pair (array or tensor, its rate); or an array or tensor already at ``rate``. Integers are PCM
            and scaled to [-1, 1]; of two axes the longer one is time, and channels are averaged.
        rate: samples per second of the result.

    Raises:
        DataError: not audio, empty, or not finite.
    """
    if isinstance(source, str | Path):
        return load_audio(source, rate)
    samples, own_rate = source if isinstance(source, tuple) and len(source) == 2 else (source, rate)
    number = float(own_rate) if isinstance(own_rate, Real) else math.nan
    if number != rate and not RATES[0] <= number <= RATES[1]:
        raise DataError(f"the rate of audio must be {RATES[0]} to {RATES[1]} samples per second, but is {own_rate!r}.")
    array = _array(samples)
    if array.ndim == 2:
        array = array.T if array.shape[0] < array.shape[1] else array  # (channels, S) -> (S, channels)
    if array.ndim not in (1, 2) or not array.size or array.dtype.kind not in "iuf":
        raise DataError(
            f"audio must be a path, samples, or a pair (samples, rate), with samples of shape (S,), (channels, S) or"
            f" (S, channels), but is {type(source).__name__} of shape {array.shape} and type {array.dtype} instead."
        )
    if not np.isfinite(array).all():
        raise DataError("audio must be finite, but holds samples that are not.")
    if array.dtype.kind == "f" and (peak := float(np.abs(array).max())) > LOUDEST:
        raise DataError(
            f"audio of floats must lie in [-1, 1], but reaches {peak:g}. PCM is scaled where it comes as integers: "
            "give it as an integer array, such as `samples.astype(np.int16)`."
        )
    audio = _scaled(array)
    audio = audio.mean(axis=1) if audio.ndim == 2 else audio
    return resample(np.ascontiguousarray(audio), int(number), rate)


def _array(samples: Any) -> npt.NDArray[Any]:
    """Samples as NumPy holds them; it has no bfloat16, so tensors of floats become float32."""
    try:
        if isinstance(samples, torch.Tensor):
            tensor = samples.detach()
            return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
        return np.asarray(samples)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"audio must be numbers of shape (S,), (channels, S) or (S, channels), but is a {type(samples).__name__} "
            f"that is no such array: {str(error).rstrip('.')}. A pair is a tuple, `(samples, rate)`."
        ) from error


def _scaled(array: npt.NDArray[Any]) -> Signal:
    """PCM integers to [-1, 1); floats as they are."""
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    half = 2.0 ** (8 * array.dtype.itemsize - 1)
    centred = array.astype(np.float64) - (half if array.dtype.kind == "u" else 0)
    return (centred / half).astype(np.float32)
