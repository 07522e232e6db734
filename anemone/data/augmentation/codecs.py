"""Steps that code an utterance and decode it again: telephone lines, and codecs at given bit rates.

G.711 is computed here; libsndfile has GSM, MP3 and Opus; AMR, G.722, G.723.1 and AAC come with PyAV (extra
``[codecs]``). A codec's delay is taken out again, and the length stays.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from anemone.config import must, nearest
from anemone.data.audio import Signal, resample
from anemone.data.augmentation.filters import butterworth, filtered
from anemone.data.augmentation.step import Augmented, Clip, StepConfig, ordered
from anemone.errors import DataError

MP3_DELAY = 1105  # samples that coder and decoder put before, where a stream has no room to say so
OPUS_KBPS = 6.0, 256.0  # between which libsndfile's compression level runs, for one channel


@dataclass(frozen=True, kw_only=True)
class TelephoneConfig(StepConfig):
    """A telephone line: its band, at 8,000 samples per second, in the eight bits of G.711."""

    laws: tuple[Literal["mu", "a"], ...] = ("mu", "a")
    """How samples become eight bits, one of which is drawn: mu-law (America, Japan) or A-law (elsewhere)."""

    low_hz: float = 300.0
    """Lower edge of the band in hertz."""

    high_hz: float = 3400.0
    """Upper edge of the band in hertz."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(len(self.laws) > 0, "laws", "one law or more", value=self.laws)
        must(self.low_hz >= 20, "low_hz", "20 Hz or more", value=self.low_hz)
        must(self.high_hz < 4000, "high_hz", "below 4000 Hz", value=self.high_hz)
        ordered(self, "low_hz", "high_hz")

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns the samples as they come out of a line of a law drawn at random."""
        law = self.laws[int(rng.integers(len(self.laws)))]
        band = partial(filtered, kernel=butterworth(8000, 4, low=self.low_hz, high=self.high_hz))
        audio = at_rate(lambda narrow, _: LAWS[law](band(narrow)), clip.audio, rate=clip.rate, rates=(8000,))
        return Augmented(audio, {"law": law})


@dataclass(frozen=True, kw_only=True)
class CodecConfig(StepConfig):
    """A lossy codec: coded and decoded again."""

    codecs: tuple[str, ...] = ("mu_law", "gsm", "mp3:16", "mp3:32", "opus:8", "opus:16")
    """Codecs, one of which is drawn: names, with kbit/s where they can be chosen, as in ``opus:12``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        must(len(self.codecs) > 0, "codecs", "one codec or more", value=self.codecs)
        for i, text in enumerate(self.codecs):
            name, colon, rate = text.partition(":")
            known = name in CODECS
            must(known, f"codecs[{i}]", f"one of {sorted(CODECS)}", value=name, hint=nearest(name, CODECS).strip())
            least, most = CODECS[name].kbps
            number = float(rate) if rate.replace(".", "", 1).isdecimal() else None
            fits = number is not None and least <= number <= most if colon else least == most
            rule = f"{name}:KBPS with {least:g} to {most:g} kbit/s" if least < most else f"{name} alone"
            must(fits or (number == least), f"codecs[{i}]", rule, value=text)

    def draw(self, clip: Clip, rng: np.random.Generator) -> Augmented:
        """Returns `transcoded` samples by a codec drawn at random."""
        codec = self.codecs[int(rng.integers(len(self.codecs)))]
        return Augmented(transcoded(clip.audio, clip.rate, codec), {"codec": codec})


def transcoded(audio: Signal, rate: int, codec: str) -> Signal:
    """Returns samples (S,) coded and decoded.

    Args:
        audio: samples.
        rate: samples per second; a codec that has no such rate works at the next one that it has.
        codec: a name of `CODECS`, with ``:KBPS`` where it has several bit rates.

    Raises:
        DataError: the codec needs PyAV, and it is not installed; or it failed.
    """
    name, _, kbps = codec.partition(":")
    kind = CODECS[name]
    return at_rate(partial(kind.transcode, kbps=float(kbps or kind.kbps[0])), audio, rate=rate, rates=kind.rates)


def at_rate(change: Callable[[Signal, int], Signal], audio: Signal, *, rate: int, rates: tuple[int, ...]) -> Signal:
    """Returns samples (S,) changed at the first of some rates that is not below their own, or else at the last."""
    inner = next((other for other in rates if other >= rate), rates[-1])
    back = resample(change(resample(audio, rate, inner), inner), inner, rate)[: len(audio)]
    return np.pad(back, (0, len(audio) - len(back))).astype(np.float32, copy=False)


# --- G.711 ------------------------------------------------------------------------------------------------------------


def mu_law(audio: Signal) -> Signal:
    """Returns samples as eight bits of mu-law hold them (ITU-T G.711, table 2): 16 steps in each of 8 segments."""
    value = np.minimum(np.rint(np.abs(audio) * 8192), 8158) + 33
    exponent = np.frexp(value)[1] - 6  # value lies in [32, 64) * 2 ** exponent
    step = np.ldexp(np.float32(1), exponent + 1)
    decoded = (np.floor(value / step) + 0.5) * step - 33
    result: Signal = np.copysign(decoded / 8192, audio).astype(np.float32, copy=False)
    return result


def a_law(audio: Signal) -> Signal:
    """Returns samples as eight bits of A-law hold them (ITU-T G.711, table 1): 16 steps in each of 8 segments."""
    value = np.minimum(np.floor(np.abs(audio) * 4096), 4095)
    exponent = np.maximum(np.frexp(value)[1] - 6, 0)  # value lies in [32, 64) * 2 ** exponent, or below 32
    step = np.ldexp(np.float32(1), exponent + 1)
    decoded = (np.floor(value / step) + 0.5) * step
    result: Signal = np.copysign(decoded / 4096, audio).astype(np.float32, copy=False)
    return result


LAWS = {"mu": mu_law, "a": a_law}


# --- codecs -----------------------------------------------------------------------------------------------------------


def _g711(audio: Signal, rate: int, *, kbps: float, law: str) -> Signal:
    return LAWS[law](audio)


def _gsm(audio: Signal, rate: int, *, kbps: float) -> Signal:
    """GSM 06.10, full rate."""
    return _by_libsndfile(audio, rate, "WAV", "GSM610")


def _mp3(audio: Signal, rate: int, *, kbps: float) -> Signal:
    """MP3 at a constant bit rate, the next that MPEG has at the rate of samples."""
    least, most = (32, 320) if rate >= 32_000 else (8, 160 if rate >= 16_000 else 64)
    level = min(0.999, (most - min(max(kbps, least), most)) / (most - least))
    decoded = _by_libsndfile(audio, rate, "MP3", "MPEG_LAYER_III", level)
    return decoded[MP3_DELAY:] if len(decoded) > len(audio) else decoded


def _opus(audio: Signal, rate: int, *, kbps: float) -> Signal:
    level = 1 - (kbps - OPUS_KBPS[0]) / (OPUS_KBPS[1] - OPUS_KBPS[0])
    return _by_libsndfile(audio, rate, "OGG", "OPUS", level)


def _by_libsndfile(audio: Signal, rate: int, format: str, subtype: str, level: float | None = None) -> Signal:
    """Samples written to memory and read back; ``level`` is from 0, the most bits, to 1."""
    memory, mode = io.BytesIO(), "CONSTANT" if format == "MP3" else None
    try:
        with soundfile.SoundFile(
            memory, "w", rate, 1, subtype, format=format, compression_level=level, bitrate_mode=mode
        ) as file:
            file.write(np.clip(audio, -1, 1))
        memory.seek(0)
        decoded: npt.NDArray[np.float32] = soundfile.read(memory, dtype="float32")[0]
    except soundfile.LibsndfileError as error:
        raise DataError(f"libsndfile cannot code as {subtype} at {rate} samples per second: {error}") from error
    return decoded


def _by_pyav(audio: Signal, rate: int, *, kbps: float, name: str) -> Signal:
    from anemone.data.augmentation.pyav import STREAMS, round_trip

    return round_trip(audio, rate, stream=STREAMS[name], kbps=kbps)


class Codec(NamedTuple):
    """A codec.

    Attributes:
        rates: samples per second that it has, ascending.
        kbps: least and greatest kbit/s.
        transcode: samples, their rate and kbit/s -> samples as decoded, without the codec's delay.
    """

    rates: tuple[int, ...]
    kbps: tuple[float, float]
    transcode: Callable[..., Signal]


MPEG_RATES = 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000
CODECS = {
    "mu_law": Codec((8000,), (64, 64), partial(_g711, law="mu")),
    "a_law": Codec((8000,), (64, 64), partial(_g711, law="a")),
    "gsm": Codec((8000,), (13.2, 13.2), _gsm),
    "mp3": Codec(MPEG_RATES, (8, 320), _mp3),
    "opus": Codec((8000, 12000, 16000, 24000, 48000), OPUS_KBPS, _opus),
    "amr_nb": Codec((8000,), (4.75, 12.2), partial(_by_pyav, name="amr_nb")),
    "g722": Codec((16000,), (64, 64), partial(_by_pyav, name="g722")),
    "g723": Codec((8000,), (6.3, 6.3), partial(_by_pyav, name="g723")),
    "aac": Codec(MPEG_RATES, (8, 320), partial(_by_pyav, name="aac")),
}
