"""What is wrong with rows by what their recordings hold: each piece is decoded once, block by block, in threads.

Decoding, hashing and sums release Python's lock, so threads are enough, and memory is a few blocks a thread and some
90 bytes a row, whatever the recordings promise to be.
"""

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import soundfile

from anemone.data.columns import Columns, slices
from anemone.data.locators import is_file, open_audio
from anemone.data.manifest import Index, Row
from anemone.data.quality.rules import LIMITS, Found
from anemone.errors import DataError

BLOCK = 1 << 17  # frames decoded at a time
ROWS = 64  # rows of a task
OUTLINE = 65  # stretches of a piece whose loudness is compared, each with the next
CAUSES = ("", "missing-file", "undecodable", "empty-audio", "truncated", "not-finite")

MEASURE = np.dtype(
    [
        ("cause", "u1"),  # of CAUSES
        ("rate", "i4"),
        ("channels", "i4"),
        ("whole", "f8"),  # seconds of the file
        ("seconds", "f8"),  # of the piece
        ("peak", "f4"),
        ("clipped", "f4"),  # share of the samples
        ("rms", "f4"),
        ("dc", "f4"),
        ("hash", "V16"),
        ("outline", "u8"),
    ]
)
Measures = npt.NDArray[Any]


def measure(index: Index, *, jobs: int = 2, progress: Callable[[int], None] = lambda done: None) -> Measures:
    """Returns what the piece of each row holds, (N,) of MEASURE.

    Args:
        index: the data set.
        jobs: threads.
        progress: is told how many more rows are done.
    """
    found = np.zeros(len(index), MEASURE)
    waiting: deque[tuple[slice, Future[Measures]]] = deque()

    def take() -> None:
        piece, future = waiting.popleft()
        found[piece] = future.result()
        progress(piece.stop - piece.start)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for piece in slices(len(index), ROWS):
                part = index.rows(np.arange(piece.start, piece.stop))
                waiting.append((piece, pool.submit(_measured, part)))
                if len(waiting) > 2 * jobs:
                    take()
            while waiting:
                take()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return found


def _measured(rows: Sequence[Row]) -> Measures:
    """Some rows' pieces; a recording that several of them lie in is opened once."""
    found, opened, file = np.zeros(len(rows), MEASURE), "", None
    for i, row in enumerate(rows):
        try:
            if file is None or row.audio != opened:
                file, opened = soundfile.SoundFile(open_audio(row.audio)), row.audio
            found[i] = _piece(file, row)
            if cut_short(opened):
                found[i]["cause"] = CAUSES.index("truncated")
        except (soundfile.SoundFileError, OSError, DataError, TypeError, ValueError, RuntimeError, MemoryError):
            file = None
            gone = is_file(row.audio) and not os.path.isfile(row.audio)
            empty = not gone and is_file(row.audio) and not os.path.getsize(row.audio)
            cause = "missing-file" if gone else "empty-audio" if empty else "undecodable"
            found[i]["cause"] = CAUSES.index(cause)
    return found


def _piece(file: soundfile.SoundFile, row: Row) -> Measures:
    """What a piece of an open recording holds; of one channel, where the row says which."""
    found, rate = np.zeros((), MEASURE), file.samplerate
    if row.channel is not None and not 0 <= row.channel < file.channels:
        raise DataError(f"has {file.channels} channels, but not number {row.channel}")
    channels = file.channels if row.channel is None else 1
    found["rate"], found["channels"], found["whole"] = rate, channels, file.frames / rate
    start = min(round(row.offset * rate), file.frames)
    wanted = min(round(min(row.duration, file.frames / rate + 1) * rate), file.frames - start)
    file.seek(start)
    sums = _Sums(rate, channels)
    while sums.frames < wanted:
        block = file.read(min(BLOCK, wanted - sums.frames), dtype="float32", always_2d=True)
        if not len(block):
            break
        sums.add(block if row.channel is None else block[:, row.channel, None])
    if not sums.frames:
        found["cause"] = CAUSES.index("empty-audio")
        return found
    found["cause"] = CAUSES.index("not-finite" if not sums.finite else "truncated" if sums.frames < wanted else "")
    found["seconds"] = sums.frames / rate
    found["peak"], found["clipped"] = sums.peak, sums.clipped / (sums.frames * channels)
    found["rms"] = math.sqrt(sums.squares / (sums.frames * channels)) if sums.finite else 0
    found["dc"] = float(np.abs(sums.sums).max()) / sums.frames if sums.finite else 0
    found["hash"] = np.void(sums.hash.digest())
    found["outline"] = outline(np.concatenate(sums.loudness))
    return found


class _Sums:
    """What is counted block by block."""

    def __init__(self, rate: int, channels: int) -> None:
        self.frames, self.clipped, self.peak, self.squares, self.finite = 0, 0, 0.0, 0.0, True
        self.sums = np.zeros(channels)
        self.step = max(1, rate // 200)  # frames of one value of loudness
        self.loudness: list[npt.NDArray[np.float64]] = []
        self.hash = hashlib.blake2b(f"{rate} {channels}".encode(), digest_size=16)

    def add(self, block: npt.NDArray[np.float32]) -> None:
        """Counts a block (frames, channels)."""
        self.frames += len(block)
        self.hash.update(np.ascontiguousarray(block).data)
        with np.errstate(over="ignore", invalid="ignore"):
            energy = np.einsum("sc,sc->s", block, block, dtype=np.float64)
            total = float(energy.sum())
            self.finite &= math.isfinite(total)
            self.squares += total
            self.sums += block.sum(axis=0, dtype=np.float64)
            self.peak = max(self.peak, float(np.abs(block).max()))
        if self.peak >= LIMITS["full_scale"]:
            for full in (block >= LIMITS["full_scale"], block <= -LIMITS["full_scale"]):
                self.clipped += int(runs_of_three(full).sum())
        starts = np.arange(0, len(block), self.step)
        self.loudness.append(np.add.reduceat(energy, starts))


def runs_of_three(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Returns which flags (S, C) belong to a run of three or more along the first axis."""
    middle = flags[2:] & flags[1:-1] & flags[:-2]
    found = np.zeros_like(flags)
    for shift in range(3):
        found[shift : len(flags) - 2 + shift] |= middle
    return found


def outline(loudness: npt.NDArray[np.float64]) -> int:
    """Returns 64 bits: whether each of 65 equal stretches is louder than the one before; 0 for what is too short."""
    if len(loudness) < OUTLINE or not np.isfinite(loudness).all():
        return 0
    bounds = np.linspace(0, len(loudness), OUTLINE + 1).astype(np.int64)[:-1]
    parts = np.add.reduceat(loudness, bounds) / np.diff([*bounds, len(loudness)])
    return int.from_bytes(np.packbits(parts[1:] > parts[:-1]).tobytes(), "big")


def cut_short(name: str) -> bool:
    """Whether a RIFF file says that it is longer than it is; libsndfile reads what is there without a word."""
    if not is_file(name):
        return False
    with open(name, "rb") as file:
        head = file.read(8)
    size = int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and 0 < size < 0xFFFFFF00 and size + 8 > os.path.getsize(name) + 1


def check_sound(columns: Columns, measures: Measures) -> Iterator[Found]:
    """Yields what breaks a rule in what a set's recordings hold."""
    audio = columns["audio"]
    for number, rule in enumerate(CAUSES[1:], start=1):
        rows = np.flatnonzero(measures["cause"] == number)
        yield Found(rule, rows, rows, lambda row: _why(audio[row].as_py()))
    good = measures["cause"] == 0
    yield from _durations(columns, measures, good)
    yield _rates(columns, measures, good)
    yield _where("channels", good & (measures["channels"] > 1), measures["channels"], "{} channels")
    decibels = 20 * np.log10(np.maximum(measures["rms"], 1e-10))
    silent = good & (decibels < LIMITS["silent_db"])
    yield _where("silent", silent, decibels, "{:.0f} dB")
    yield _where("quiet", good & ~silent & (decibels < LIMITS["quiet_db"]), decibels, "{:.0f} dB")
    yield _where("clipped", good & (measures["clipped"] > LIMITS["clipped"]), measures["clipped"], "{:.2%} of samples")
    yield _where("dc-offset", good & (measures["dc"] > LIMITS["dc"]), measures["dc"], "mean {:.3f}")


def _why(locator: str) -> str:
    """What opening a recording says."""
    if is_file(locator) and not (os.path.isfile(locator) and os.path.getsize(locator)):
        return "no bytes" if os.path.isfile(locator) else "no such file"
    try:
        with soundfile.SoundFile(open_audio(locator)) as file:
            return "decoding breaks off" if file.frames else "no samples"
    except soundfile.LibsndfileError as error:
        return str(error.error_string)
    except (OSError, DataError, TypeError, ValueError, RuntimeError) as error:
        return " ".join(str(error).split())


def _where(rule: str, broken: npt.NDArray[np.bool_], values: npt.NDArray[Any], template: str) -> Found:
    rows = np.flatnonzero(broken)
    return Found(rule, rows, values[rows], template.format)


def _durations(columns: Columns, measures: Measures, good: npt.NDArray[np.bool_]) -> Iterator[Found]:
    """Declared against real durations."""
    declared, offset = columns["duration"].to_numpy(), columns["offset"].to_numpy()
    slack = LIMITS["tolerance_s"] + LIMITS["tolerance"] * declared
    pairs = np.stack([declared, measures["seconds"]], axis=1)
    rows = np.flatnonzero(good & (measures["seconds"] < declared - slack))
    yield Found("shorter-than-declared", rows, pairs[rows], lambda p: f"{p[0]:.2f} s declared, {p[1]:.2f} s there")
    coded = columns["audio"].combine_chunks().dictionary_encode()
    alone = (
        np.bincount(coded.indices.to_numpy())[coded.indices.to_numpy()] == 1
    )  # no other row has the rest of the file
    pairs = np.stack([declared, measures["whole"]], axis=1)
    rows = np.flatnonzero(good & alone & (offset == 0) & (measures["whole"] > declared + slack))
    yield Found("longer-than-declared", rows, pairs[rows], lambda p: f"{p[0]:.2f} s declared, {p[1]:.2f} s there")


def _rates(columns: Columns, measures: Measures, good: npt.NDArray[np.bool_]) -> Found:
    """Rates that are not the declared one, or not the usual one where none is declared."""
    rates = measures["rate"]
    usual = np.bincount(rates[good]).argmax() if good.any() else 0
    expected = np.full(len(rates), usual, np.float64)
    for key in ("sample_rate", "sampling_rate", "samplerate"):
        if key in columns.index.columns and pa.types.is_integer(columns.index.column(key).type):
            told = columns.index.column(key).to_numpy()
            expected = np.where(np.isnan(told.astype(np.float64)), expected, told)
    rows = np.flatnonzero(good & (rates != expected))
    pairs = np.stack([rates, expected], axis=1)[rows]
    return Found("other-rate", rows, pairs, lambda pair: f"{pair[0]:.0f} Hz, not {pair[1]:.0f}")
