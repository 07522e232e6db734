"""Steps that put an utterance into a room: impulse responses that were recorded, or are computed from mirror images."""

import functools
import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from anemone.config import must
from anemone.data.audio import Signal, resample
from anemone.data.augmentation.filters import butterworth, convolve, filtered
from anemone.data.augmentation.level import rms_db
from anemone.data.augmentation.pool import pool
from anemone.data.augmentation.step import Augmented, Clip, StepConfig, ordered
from anemone.errors import DataError

SPEED = 343.0  # of sound, in metres a second
FINER = 4  # times the rate at which echoes are placed
LONGEST = 3.0  # seconds of a response
KEPT = 512  # responses of a process

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RoomConfig(StepConfig):
    """A recorded room: convolution with its impulse response."""

    manifest: str
    """Impulse responses: a manifest of JSON lines, or any other source."""

    level: Literal["rms", "peak"] = "rms"
    """How loud the result is: as before by its mean square, or with its peak at full scale."""

    aligned: bool = True
    """Whether the direct sound, the response's peak, keeps its time; otherwise all comes later by its delay."""

    @property
    def files(self) -> tuple[str, ...]:
        """The manifest."""
        return (self.manifest,)

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns `reverberated` samples by a response drawn at random."""
        rooms = pool(self.manifest, clip.rate)
        row = int(rng.integers(len(rooms)))
        audio = reverberated(clip.audio, recorded(self.manifest, clip.rate, row), aligned=self.aligned)
        return Augmented(levelled(audio, clip.audio, self.level), {"room": rooms.id(row)})


@dataclass(frozen=True, kw_only=True)
class SimulatedRoomConfig(StepConfig):
    """A room of plane walls, by mirror images; a process computes each of so many rooms when it is first drawn."""

    rooms: int = 200
    """Number of different rooms; a room of a number is the same in all runs."""

    min_size: tuple[float, float, float] = (3.0, 3.0, 2.4)
    """Least length, width and height in metres."""

    max_size: tuple[float, float, float] = (9.0, 7.0, 3.5)
    """Greatest length, width and height."""

    min_rt60: float = 0.15
    """Least time in which sound decays by 60 dB, in seconds."""

    max_rt60: float = 0.7
    """Greatest decay time."""

    min_distance: float = 0.5
    """Least distance of the speaker from the microphone in metres."""

    max_distance: float = 3.0
    """Greatest distance; walls may bring it down."""

    absorption: Literal["fitted", "eyring", "sabine"] = "fitted"
    """The walls' absorption for a decay time: by a formula, or Eyring's fitted so that the response decays in it (the
    formulas hold for sound from all sides; mirror images of one box decay slower by a quarter or so)."""

    level: Literal["rms", "peak"] = "rms"
    """How loud the result is: as before by its mean square, or with its peak at full scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(1 <= self.rooms <= 1_000_000, "rooms", "in 1..1000000", value=self.rooms)
        must(min(self.min_size) >= 1, "min_size", "1 m or more each", value=self.min_size)
        must(max(self.max_size) <= 100, "max_size", "at most 100 m each", value=self.max_size)
        larger = all(low <= high for low, high in zip(self.min_size, self.max_size, strict=True))
        must(larger, "min_size", f"at most max_size ({self.max_size})", value=self.min_size)
        must(self.min_rt60 > 0, "min_rt60", "above 0", value=self.min_rt60)
        must(self.max_rt60 <= 2, "max_rt60", "at most 2 s", value=self.max_rt60)
        must(self.min_distance >= 0.1, "min_distance", "0.1 m or more", value=self.min_distance)
        ordered(self, "min_rt60", "max_rt60")
        ordered(self, "min_distance", "max_distance")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns `reverberated` samples by the response of a room drawn at random."""
        number = int(rng.integers(self.rooms))
        room, response = simulated(self, clip.rate, number)
        audio = reverberated(clip.audio, response)
        return Augmented(levelled(audio, clip.audio, self.level), {"number": number, **room.drawn})


@dataclass(frozen=True, kw_only=True)
class Shoebox:
    """A room with a speaker and a microphone in it."""

    size: tuple[float, ...]
    """Length, width and height in metres."""

    source: tuple[float, ...]
    """Where the speaker is."""

    microphone: tuple[float, ...]
    """Where the microphone is."""

    rt60: float
    """Decay time in seconds."""

    @property
    def drawn(self) -> dict[str, object]:
        """All of it, to the centimetre."""
        return {
            name: [round(x, 2) for x in value] if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


# --- responses --------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=KEPT)
def recorded(manifest: str, rate: int, row: int) -> Signal:
    """Returns a recorded response (K,), cut to `LONGEST` seconds.

    Raises:
        DataError: it is silent, or cannot be read.
    """
    rooms = pool(manifest, rate)
    response = rooms.piece(row, 0.0, LONGEST)
    if not response.any():
        raise DataError(f"the impulse response `{rooms.id(row)}` of `{manifest}` must be audible, but is silent.")
    return response


@functools.lru_cache(maxsize=KEPT)
def simulated(config: SimulatedRoomConfig, rate: int, number: int) -> tuple[Shoebox, Signal]:
    """Returns a room by its number, and its response (K,)."""
    rng = np.random.default_rng([60, number])
    size = rng.uniform(config.min_size, config.max_size)
    rt60 = rng.uniform(config.min_rt60, config.max_rt60)
    margin = np.minimum(0.5, size / 4)  # from the walls
    microphone = rng.uniform(margin, size - margin)
    distance, direction = rng.uniform(config.min_distance, config.max_distance), rng.standard_normal(3)
    direction *= [1, 1, 0.2]  # heads and microphones are at much the same height
    source = np.clip(microphone + distance * direction / np.linalg.norm(direction), margin, size - margin)
    room = Shoebox(
        size=tuple(size.tolist()), source=tuple(source.tolist()), microphone=tuple(microphone.tolist()), rt60=rt60
    )
    absorption = absorbed(room, config.absorption)
    response = image_source(room, rate, absorption)
    for _ in range(2 if config.absorption == "fitted" else 0):
        absorption = 1 - (1 - absorption) ** (decay_time(response, rate) / rt60)
        response = image_source(room, rate, min(0.99, absorption))
    return room, response


def absorbed(room: Shoebox, formula: str) -> float:
    """Returns the share of energy that walls take at each echo for a decay time, by Sabine's or Eyring's formula.

    Sabine: ``0.161 V / (A T)`` of volume, surface and time; Eyring: ``1 - exp(-0.161 V / (A T))``. At most 0.99.
    """
    x, y, z = room.size
    sabine = 24 * math.log(10) / SPEED * x * y * z / (2 * (x * y + x * z + y * z) * room.rt60)
    return min(0.99, sabine if formula == "sabine" else 1 - math.exp(-sabine))


def decay_time(response: Signal, rate: int) -> float:
    """Returns the seconds in which a response (K,) decays by 60 dB, by its backward integral between -5 and -25 dB.

    T20 of ISO 3382-1, by a straight line through the decay (Schroeder, "New method of measuring reverberation time",
    JASA 1965).
    """
    energy = np.cumsum(response[::-1].astype(np.float64) ** 2)[::-1]
    db = 10 * np.log10(energy / energy[0] + 1e-12)
    first, last = int(np.argmax(db <= -5)), int(np.argmax(db <= -25))
    slope = np.polyfit(np.arange(first, last) / rate, db[first:last], 1)[0] if last > first + 1 else -np.inf
    return float(-60 / slope)


def image_source(room: Shoebox, rate: int, absorption: float) -> Signal:
    """Returns the response (K,) of a room from the direct sound on, which is 1 m from the microphone at amplitude 1.

    All mirror images of the source that are heard within the decay time (Allen and Berkley, "Image method for
    efficiently simulating small-room acoustics", JASA 1979): each comes later by its distance, weaker by it and by the
    walls it was mirrored in. Echoes are placed at four times the rate and the whole is brought down, so that their
    times are right to a fraction of a sample; below 40 Hz, where the sum would drift, nothing is left.
    """
    direct = math.dist(room.source, room.microphone)
    reach = direct + SPEED * min(room.rt60, LONGEST)
    axes = [_images(*axis, reach) for axis in zip(room.size, room.source, room.microphone, strict=True)]
    (x, nx), (y, ny), (z, nz) = axes
    factors = (1 - absorption) ** (0.5 * np.arange(nx.max() + ny.max() + nz.max() + 1))
    plane, walls = (y[:, None] + z).ravel(), (ny[:, None] + nz).ravel()  # squared distances and walls of two axes
    order = np.argsort(plane)
    plane, walls = plane[order], walls[order]
    fine, length = rate * FINER, int((reach - direct) / SPEED * rate * FINER) + 2
    response = np.zeros(length)
    for squared, mirrored in zip(x, nx, strict=True):
        count = int(np.searchsorted(plane, reach**2 - squared))
        distance = np.sqrt(plane[:count] + squared)
        times = ((distance - direct) * (fine / SPEED) + 0.5).astype(np.int64)
        response += np.bincount(times, factors[walls[:count] + mirrored] / distance, minlength=length)[:length]
    coarse = resample(response.astype(np.float32) * FINER, fine, rate)
    return filtered(coarse, butterworth(rate, 2, low=40))


def _images(size: float, source: float, microphone: float, reach: float) -> tuple[Vector, npt.NDArray[np.int64]]:
    """Of the images along one axis the squared distances (N,) within reach, and how many walls each was mirrored in."""
    n = np.arange(-math.ceil(reach / (2 * size)) - 1, math.ceil(reach / (2 * size)) + 2)
    squared = np.concatenate([(2 * n * size + source - microphone) ** 2, (2 * n * size - source - microphone) ** 2])
    walls = np.concatenate([abs(2 * n), abs(2 * n - 1)])
    near = squared <= reach**2
    return squared[near], walls[near]


# --- what becomes of the utterance ------------------------------------------------------------------------------------


def reverberated(audio: Signal, response: Signal, *, aligned: bool = True) -> Signal:
    """Returns the convolution of samples (S,) with a response, cut to S; ``aligned``, it starts at the peak's delay."""
    first = int(np.argmax(np.abs(response))) if aligned else 0
    return convolve(audio, response)[first : first + len(audio)]


def levelled(audio: Signal, before: Signal, level: str) -> Signal:
    """Returns audio as loud as ``before`` (rms), or with a peak of 1 (peak); silence stays."""
    if level == "peak":
        peak = np.abs(audio).max(initial=0)
        return audio / peak if peak > 0 else audio
    change = rms_db(before) - rms_db(audio)
    return audio * np.float32(10 ** (change / 20)) if math.isfinite(change) else audio
