"""Utterances as a data directory that Kaldi takes: tables sorted by bytes, recordings it can read.

Kaldi wants words without white space as names, and the order of utterances to be that of their speakers too. Where
names are not so, all get new ones, ``speaker-id`` with odd letters written ``=2D``, and the table `KEPT` keeps the old
ones, as it keeps whatever else Kaldi has no table for.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unicodedata import category
from urllib.parse import quote

import numpy as np
import soundfile

from anemone.data.kaldi.check import ILLEGAL, UNSEEN
from anemone.data.kaldi.cmvn import statistics
from anemone.data.kaldi.folder import CHANNELS, KEPT
from anemone.data.kaldi.matrices import Array, Format
from anemone.data.kaldi.places import PLACE, is_command, read_table, write_ark
from anemone.data.locators import is_url, locate, open_audio
from anemone.data.problems import Problem
from anemone.data.sources import Utterance
from anemone.errors import DataError

LONGEST_NAME = 150
SAME = 0.01  # seconds by which a duration may differ from that of the recording and still mean all of it
FRAMES = 1 << 20  # decoded at a time
Copy = Literal["needed", "all", "never"]


class Recording(NamedTuple):
    """What `write_kaldi` knows of a recording or one channel of it."""

    name: str
    seconds: float
    channels: int
    place: str
    """As ``wav.scp`` has it; empty where it must be copied."""


class Named(NamedTuple):
    """An utterance with the names that Kaldi takes."""

    name: str
    speaker: str
    utterance: Utterance


def write_kaldi(utterances: Iterable[Utterance], folder: str | Path, *, copy: Copy = "needed") -> list[Problem]:
    """Writes a data directory, and returns what could not be written.

    ``wav.scp`` names the recordings where they are. Those that Kaldi cannot read, which are all but WAV of 16 bits, are
    copied as such below ``wav/``. ``segments`` is written where an utterance is a part of a recording.

    Args:
        utterances: in any order.
        folder: made if it is not there; tables of the same names are written over.
        copy: whether recordings are copied as WAV of 16 bits: those that must be, all, or none.

    Raises:
        DataError: there is nothing to write.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    problems: list[Problem] = []
    found: dict[tuple[str, int | None], Recording] = {}
    rows: dict[str, tuple[int, Utterance]] = {}
    for number, utterance in enumerate(utterances, start=1):
        try:
            if utterance.id in rows:
                raise DataError(f"`{utterance.id}` is the name of utterance {rows[utterance.id][0]} already")
            _look(utterance, found, copy)
            rows[utterance.id] = number, utterance
        except DataError as error:
            problems.append(Problem(os.fspath(folder), number, str(error)))
    if not rows:
        raise DataError(f"`{folder}` would be empty: none of {len(problems)} utterances can be written.")
    named = name_all([utterance for _, utterance in rows.values()])
    tables = _tables(named, found, folder)
    for name, lines in tables.items():
        _write(folder / name, lines)
    return problems


def name_all(utterances: Iterable[Utterance]) -> list[Named]:
    """Returns utterances with names and speakers that Kaldi takes, sorted by the bytes of the names."""
    named = [Named(u.id, u.id if u.speaker is None else u.speaker, u) for u in utterances]
    named.sort(key=lambda n: n.name.encode())
    speakers = [n.speaker.encode() for n in named]
    words = all(_is_word(n.name) and _is_word(n.speaker) for n in named)
    if words and speakers == sorted(speakers) and all(n.utterance.speaker != n.name for n in named):
        return named
    return sorted((_renamed(n.utterance) for n in named), key=lambda n: n.name.encode())


def _is_word(text: str) -> bool:
    """Whether Kaldi takes a text for one word and nothing else."""
    return bool(text) and text.isprintable() and not any(c.isspace() for c in text) and not ILLEGAL.search(text)


def _renamed(utterance: Utterance) -> Named:
    """Names of letters, digits, ``_.~=`` alone, all above the hyphen that joins them: both orders are then the same."""
    own, speaker = (_quoted(text) for text in (utterance.id, utterance.speaker or ""))
    return Named(own, own, utterance) if utterance.speaker is None else Named(f"{speaker}-{own}", speaker, utterance)


def _quoted(text: str) -> str:
    return quote(text, safe="").replace("%", "=").replace("-", "=2D") or "="


# --- recordings -------------------------------------------------------------------------------------------------------


def _look(utterance: Utterance, found: dict[tuple[str, int | None], Recording], copy: Copy) -> None:
    """Opens the recording of an utterance, unless that is done.

    Raises:
        DataError: it cannot be opened, or the utterance does not lie in it.
    """
    key = utterance.audio, utterance.channel
    if key not in found:
        try:
            info = soundfile.info(open_audio(utterance.audio))
        except (soundfile.LibsndfileError, OSError) as error:
            raise DataError(f"`{utterance.audio}` cannot be opened: {str(error).rstrip('.')}") from error
        readable = (info.format, info.subtype) in {("WAV", "PCM_16"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16")}
        place = "" if copy == "all" or (copy == "needed" and not readable) else _place(utterance.audio)
        place = place or (utterance.audio if copy == "never" else "")
        found[key] = Recording("", info.frames / info.samplerate, info.channels, place)
    end = _end(utterance, found[key])
    if not utterance.offset < end:
        raise DataError(f"`{utterance.id}` ends at second {end:g}, where it begins")


def _end(utterance: Utterance, recording: Recording) -> float:
    """Where an utterance ends in its recording, in seconds."""
    lasts = utterance.duration
    return recording.seconds if lasts is None else round(utterance.offset + lasts, 9)


def _place(audio: str) -> str:
    """How ``wav.scp`` says where a recording is; empty where it cannot."""
    where = locate(audio)
    path = os.path.abspath(where.path)
    if is_url(audio) or where.member is not None or where.row is not None:
        return ""
    match = PLACE.fullmatch(path)
    plain = match and match["path"] == path and path == path.strip() and path.isprintable() and not is_command(path)
    if not plain:
        return ""
    return path if where.at is None else f"{path}:{where.at}"


def _copied(audio: str, path: Path) -> str:
    """Writes a recording as WAV of 16 bits, with all its channels."""
    path.parent.mkdir(exist_ok=True)
    with soundfile.SoundFile(open_audio(audio)) as source:
        exact = source.subtype in {"PCM_16", "PCM_S8", "PCM_U8"}
        with soundfile.SoundFile(path, "w", source.samplerate, source.channels, "PCM_16", format="WAV") as target:
            for block in source.blocks(FRAMES, dtype="int16" if exact else "float32", always_2d=True):
                target.write(block if exact else np.rint(block * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16))
    return os.fspath(path.absolute())


# --- tables -----------------------------------------------------------------------------------------------------------

Lines = dict[str, str]


def _tables(named: list[Named], found: dict[tuple[str, int | None], Recording], folder: Path) -> dict[str, Lines]:
    """All tables by name, each from key to value; an empty one is not written."""
    keys = [(n.utterance.audio, n.utterance.channel) for n in named]
    whole = len(set(keys)) == len(keys) and all(
        _is_whole(n.utterance, found[k]) for n, k in zip(named, keys, strict=True)
    )
    names = dict(zip(keys, (n.name for n in named), strict=True)) if whole else _recording_names(named)
    scp = {names[key]: found[key].place or _copied(key[0], folder / "wav" / _file(names[key])) for key in names}
    some = any(channel is not None for _, channel in names)
    letters = {names[key]: f"{names[key]} {'B' if key[1] == 1 else 'A'}" for key in names} if some else {}
    text = {n.name: _clean(n.utterance.text or "") for n in named}
    segments, durations = {}, {}
    for n, key in zip(named, keys, strict=True):
        u = n.utterance
        seconds = found[key].seconds - u.offset if u.duration is None else u.duration
        segments[n.name] = f"{names[key]} {u.offset!r} {_end(u, found[key])!r}"
        durations[n.name] = repr(seconds)
    tables = {
        "wav.scp": scp,
        "utt2spk": {n.name: n.speaker for n in named},
        "utt2dur": durations,
        "segments": {} if whole else segments,
        "text": text if any(n.utterance.text is not None for n in named) else {},
        "reco2file_and_channel": letters,
        "spk2gender": _genders(named),
        **{table: _all_words(named, table) for table in ("utt2lang", "utt2label")},
    }
    tables[KEPT] = {
        n.name: kept for n, k in zip(named, keys, strict=True) if (kept := _kept(n, found[k], tables, not whole))
    }
    spk2utt: dict[str, list[str]] = {}
    for n in named:
        spk2utt.setdefault(n.speaker, []).append(n.name)
    return tables | {"spk2utt": {speaker: " ".join(own) for speaker, own in spk2utt.items()}}


def _is_whole(utterance: Utterance, recording: Recording) -> bool:
    """Whether an utterance is all of its recording."""
    lasts = recording.seconds if utterance.duration is None else utterance.duration
    return utterance.offset == 0 and abs(lasts - recording.seconds) <= SAME


def _recording_names(named: list[Named]) -> dict[tuple[str, int | None], str]:
    """A name for each recording, or channel of one that is used so: what the source called it, or its file."""
    names: dict[tuple[str, int | None], str] = {}
    used: set[str] = set()
    for n in named:
        key = n.utterance.audio, n.utterance.channel
        if key in names:
            continue
        called = n.utterance.extra.get("recording")
        place = locate(n.utterance.audio)
        stem = called if isinstance(called, str) else Path(place.member or place.path).stem
        stem = stem if _is_word(stem) else _quoted(stem)
        options = (stem, *(f"{stem}-{number}" for number in range(2, len(named) + 2)))
        names[key] = next(name for name in options if name not in used)
        used.add(names[key])
    return names


def _file(name: str) -> str:
    """The name of a file for a recording."""
    fits = len(name.encode()) <= LONGEST_NAME and "/" not in name and not name.startswith(".")
    return f"{name if fits and PLACE.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:32]}.wav"


def _clean(text: str) -> str:
    """A text as Kaldi takes it: words with single spaces between, without those that mean something to it."""
    seen = "".join(" " if category(c) in UNSEEN else c for c in text)
    return " ".join(ILLEGAL.sub(" ", seen).split())


def _genders(named: list[Named]) -> Lines:
    """Speaker -> m or f, where that is known of all of them."""
    genders: Lines = {}
    for n in named:
        gender = n.utterance.extra.get("gender")
        if gender not in ("m", "f") or genders.setdefault(n.speaker, gender) != gender:
            return {}
    return genders


def _all_words(named: list[Named], table: str) -> Lines:
    """A table of labels or languages, where all utterances have one that is made of words."""
    values = [n.utterance.label if table == "utt2label" else n.utterance.extra.get("lang") for n in named]
    fit = all(isinstance(value, str) and value and value == _clean(value) and value.isprintable() for value in values)
    return {n.name: str(value) for n, value in zip(named, values, strict=True)} if fit else {}


def _kept(n: Named, recording: Recording, tables: Mapping[str, Lines], segmented: bool) -> str:
    """As JSON, what the other tables do not say of an utterance, or say otherwise; empty if nothing."""
    u = n.utterance
    letter = tables["reco2file_and_channel"] and recording.channels > 1
    said: dict[str, Any] = {
        "id": n.name,
        "text": tables["text"].get(n.name),
        "speaker": None if n.speaker == n.name else n.speaker,
        "label": tables["utt2label"].get(n.name),
        "channel": (CHANNELS["B"] if u.channel == 1 else CHANNELS["A"]) if letter else None,
        "duration": u.duration,
    }
    if segmented and u.duration is not None:
        said["duration"] = round(_end(u, recording) - u.offset, 9)
    kept = {key: getattr(u, key) for key, value in said.items() if getattr(u, key) != value}
    known = {"gender": tables["spk2gender"].get(n.speaker), "lang": tables["utt2lang"].get(n.name)}
    if segmented:
        known["recording"] = tables["segments"][n.name].split()[0]
    extra = {key: value for key, value in u.extra.items() if value is not None and known.get(key) != value}
    kept |= {"extra": extra} if extra else {}
    return json.dumps(kept, ensure_ascii=True, default=str) if kept else ""


def _write(path: Path, lines: Lines) -> None:
    """Writes a table sorted by the bytes of its keys; one without lines is taken away."""
    if not lines:
        path.unlink(missing_ok=True)
        return
    ordered = sorted(lines.items(), key=lambda item: item[0].encode())
    path.write_bytes("".join(f"{key} {value}".rstrip() + "\n" for key, value in ordered).encode())


def write_features(
    folder: str | Path, features: Iterable[tuple[str, Array]], *, format: Format = "float", hop_ms: float = 10.0
) -> int:
    """Writes features beside the tables of a data directory; returns of how many utterances.

    ``feats.ark`` and ``feats.scp`` hold them, ``utt2num_frames`` counts them, ``frame_shift`` says how far apart frames
    are, and ``cmvn.ark`` and ``cmvn.scp`` are the statistics of each speaker of ``utt2spk``, or of each utterance
    without one.

    Args:
        folder: made if it is not there.
        features: utterance and matrix (T, F), sorted by the bytes of the names.
        format: of the matrices, see `write_array`.
        hop_ms: from frame to frame.

    Raises:
        DataError: a name or a matrix that cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owners = read_table(folder / "utt2spk")[0] if (folder / "utt2spk").is_file() else {}
    frames: Lines = {}
    stats: dict[str, Array] = {}

    def counted() -> Iterator[tuple[str, Array]]:
        for name, matrix in features:
            speaker, own = owners[name].value if name in owners else name, statistics([matrix])
            frames[name] = str(len(matrix))
            stats[speaker] = stats[speaker] + own if speaker in stats else own
            yield name, matrix

    count = write_ark(folder / "feats.ark", counted(), folder / "feats.scp", format)
    ordered = sorted(stats.items(), key=lambda item: item[0].encode())
    write_ark(folder / "cmvn.ark", iter(ordered), folder / "cmvn.scp", "double")
    _write(folder / "utt2num_frames", frames)
    (folder / "frame_shift").write_text(f"{hop_ms / 1000:g}\n")
    return count
