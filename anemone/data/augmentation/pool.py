"""The recordings that steps take noise, rooms and voices from: a set, opened once a process."""

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from anemone.data.audio import Recordings, Signal
from anemone.data.files import digest, find
from anemone.data.problems import Problem
from anemone.data.soundfiles import open_sound
from anemone.errors import DataError

CACHE_MB = 64  # of decoded recordings, of each pool


class Pool:
    """Recordings of a set, at one rate.

    Args:
        path: of the set: a manifest of JSON lines, or any other source.
        rate: samples per second.

    Attributes:
        path: as it was given.
    """

    def __init__(self, path: str, rate: int) -> None:
        from anemone.data.sources import source
        from anemone.data.sources.detect import detect

        self.path, self.rate = path, rate
        place = os.fspath(where(path))
        names, places, self._channels = (
            list[tuple[str, str, str | None]](),
            list[tuple[float, float]](),
            list[int | None](),
        )
        for row in source(detect(place)).read(place):
            if isinstance(row, Problem):
                raise DataError(str(row))
            names.append((row.audio, row.id, row.speaker))
            places.append((row.offset, row.duration or np.nan))
            self._channels.append(row.channel)
        if not names:
            raise DataError(f"`{path}` must hold recordings, but there is none to use.")
        self._audio, self._ids, self._speakers = (pa.array(column, pa.string()) for column in zip(*names, strict=True))
        self._places = np.array(places)
        self._rows: dict[str, int] | None = None
        self._recordings = Recordings(rate, cache_mb=CACHE_MB)

    def __len__(self) -> int:
        """Number of recordings."""
        return len(self._audio)

    def id(self, row: int) -> str:
        """Name of a recording."""
        return str(self._ids[row])

    def seconds(self, row: int) -> float:
        """Length of a recording; one that the set does not tell is asked of the file, once."""
        if np.isnan(self._places[row, 1]):
            with open_sound(str(self._audio[row])) as file:
                self._places[row, 1] = file.frames / file.samplerate - self._places[row, 0]
        return float(self._places[row, 1])

    def piece(self, row: int, start: float = 0.0, seconds: float | None = None) -> Signal:
        """Returns samples (S,) of a recording from second ``start`` of it on; do not write to them."""
        offset, own = self._places[row, 0], self.seconds(row)
        length = own - start if seconds is None else min(seconds, own - start)
        return self._recordings.piece(str(self._audio[row]), offset + start, length, channel=self._channels[row])

    def draw(self, samples: int, rng: np.random.Generator, *, without: str | None = None) -> tuple[Signal, int, float]:
        """Returns a random piece of a random recording of so many samples, or all of a shorter one; its row and start.

        Args:
            samples: S, at most.
            rng: what draws.
            without: id of an utterance; where the set knows it, its own recording and its speaker's are left out.
        """
        row = self._other(without, rng) if without is not None else int(rng.integers(len(self)))
        room = self.seconds(row) - samples / self.rate
        start = rng.uniform(0, room) if room > 0 else 0.0
        return self.piece(row, start, samples / self.rate)[:samples], row, start

    def _other(self, id: str, rng: np.random.Generator) -> int:
        """A row of another speaker than that of an utterance, as far as the set tells."""
        if self._rows is None:
            self._rows = {name: row for row, name in enumerate(self._ids.to_pylist())}
        own = self._rows.get(id)
        speaker = None if own is None else self._speakers[own].as_py()
        for _ in range(100):
            row = int(rng.integers(len(self)))
            if row != own and (speaker is None or self._speakers[row].as_py() != speaker):
                return row
        raise DataError(f"`{self.path}` must hold other speakers than that of `{id}`, but 100 draws found none.")


@functools.lru_cache(maxsize=16)
def pool(path: str, rate: int) -> Pool:
    """Returns the pool of a set, the same one to each step of this process that asks for it."""
    return Pool(path, rate)


def where(path: str) -> Path:
    """Returns where a set lies: ``assets/...`` inside the package, others as they are.

    Raises:
        DataError: there is no such file or folder.
    """
    return Path(path) if Path(path).is_dir() else find(path, noun="manifest", pattern="*.json*")


def held(path: str) -> str:
    """Returns a hash of what the manifest of a set holds; of a folder that of its files' names and sizes."""
    place = where(path)
    if not place.is_dir():
        return digest(place)
    files = sorted(file for file in place.rglob("*") if file.is_file())
    listed = repr([(str(file.relative_to(place)), file.stat().st_size) for file in files])
    return hashlib.sha256(listed.encode()).hexdigest()
