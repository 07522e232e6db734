"""A data directory of Kaldi as utterances.

``wav.scp`` says where recordings are; without ``segments`` each is an utterance. All other tables may be missing. Paths
are looked for from where one stands, from the directory and from those it lies in: Kaldi's are relative to the folder
its scripts run in. What only we know of an utterance (`KEPT`) stands in a table of our own beside Kaldi's.
"""

import hashlib
import json
import math
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

from anemone.cache import cache_folder
from anemone.data.kaldi.places import Entry, Place, is_command, opened, output_of, parse_place, read_table
from anemone.data.locators import is_url, open_audio
from anemone.data.problems import Problem
from anemone.data.sources import Utterance
from anemone.errors import DataError

KEPT = "utt2anemone"
"""Utterance -> JSON of what Kaldi's tables cannot say: its own id, a label, a channel beyond B, further keys."""

TABLES = ("text", "utt2spk", "spk2utt", "spk2gender", "utt2dur", "utt2lang", "utt2label", "reco2file_and_channel", KEPT)
CHANNELS = {"A": 0, "B": 1}
UNKNOWN_SIZES = 0, 0xFFFFFFFF, 0x7FFFFFFF  # what headers say that were written into a pipe


class Recording(NamedTuple):
    """A line of ``wav.scp``."""

    audio: str
    line: int


class Folder:
    """The tables of a data directory.

    Args:
        path: of the directory.
        trust_commands: whether commands in its ``wav.scp`` may run.

    Raises:
        DataError: it has no ``wav.scp``.
    """

    def __init__(self, path: str | Path, *, trust_commands: bool = False) -> None:
        self.path, self.trust_commands = Path(path), trust_commands
        self.problems: list[Problem] = []
        if not (self.path / "wav.scp").is_file():
            features = (self.path / "feats.scp").is_file()
            hint = " It has features only: train on them with data.kind=kaldi." if features else ""
            raise DataError(f"`{path}` must be a data directory of Kaldi, with a file wav.scp.{hint}")
        self.recordings = self._table("wav.scp")
        self.segments = self._table("segments") if (self.path / "segments").is_file() else None
        self.tables = {name: self._table(name) if (self.path / name).is_file() else {} for name in TABLES}
        self._speakers = speakers(self.tables["utt2spk"], self.tables["spk2utt"])
        self._roots: list[Path] = [Path.cwd(), *list(self.path.absolute().parents)[:3], self.path.absolute()]
        self._headers: dict[str, tuple[float, int]] = {}

    def __iter__(self) -> Iterator[Utterance | Problem]:
        """Yields the utterances, and what is wrong."""
        yield from self.problems
        names = self.recordings if self.segments is None else self.segments
        found: dict[str, Recording | DataError] = {}
        for name, entry in names.items():
            try:
                yield self._utterance(name, entry, found)
            except DataError as error:
                table = "wav.scp" if self.segments is None else "segments"
                cause = str(error).removeprefix(f"{self.path / table}:{entry.line}: ")
                yield Problem(os.fspath(self.path / table), entry.line, cause)
        for table in ("text", "utt2spk"):
            for name, entry in self.tables[table].items():
                if name not in names:
                    cause = f"`{name}` is no utterance of {'wav.scp' if self.segments is None else 'segments'}"
                    yield Problem(os.fspath(self.path / table), entry.line, cause)

    def _table(self, name: str) -> dict[str, Entry]:
        entries, problems = read_table(self.path / name)
        self.problems += problems
        return entries

    def _utterance(self, name: str, entry: Entry, found: dict[str, Recording | DataError]) -> Utterance:
        segment = Segment(name) if self.segments is None else _segment(entry.value)
        recording_id, offset, duration, channel = segment
        recording = self._recording(recording_id, found)
        if duration is None:
            duration = self._duration(name) or self._header(recording.audio)[0] - offset
        speaker = self._speakers.get(name)
        extra: dict[str, Any] = {} if self.segments is None else {"recording": recording_id}
        for key, table, owner in (("gender", "spk2gender", speaker or name), ("lang", "utt2lang", name)):
            if owner in self.tables[table]:
                extra[key] = self.tables[table][owner].value
        utterance = Utterance(
            id=name,
            audio=recording.audio,
            offset=offset,
            duration=duration,
            text=self._value("text", name),
            label=self._value("utt2label", name),
            speaker=speaker,
            channel=self._channel(recording_id, recording.audio) if channel is None else channel,
            extra=extra,
        )
        return self._restored(utterance)

    def _value(self, table: str, name: str) -> str | None:
        entry = self.tables[table].get(name)
        return entry and entry.value

    def _duration(self, name: str) -> float | None:
        """What ``utt2dur`` says."""
        entry = self.tables["utt2dur"].get(name)
        return number(entry.value, above=0) if entry else None

    def _recording(self, name: str, found: dict[str, Recording | DataError]) -> Recording:
        """Where a recording is; an error is remembered, and raised for each utterance of it."""
        if name not in found:
            entry = self.recordings.get(name)
            if entry is None:
                raise DataError(f"the recording `{name}` is not in {self.path / 'wav.scp'}")
            try:
                found[name] = Recording(self._locator(entry), entry.line)
            except DataError as error:
                found[name] = error
        recording = found[name]
        if isinstance(recording, DataError):
            raise recording
        return recording

    def _locator(self, entry: Entry) -> str:
        where = f"{self.path / 'wav.scp'}:{entry.line}"
        if is_command(entry.value):
            return kept(output_of(entry.value, where, trust_commands=self.trust_commands), entry.value, ".wav")
        if is_url(entry.value):
            return entry.value
        place = parse_place(entry.value, where)
        if place.rows or place.columns:
            raise DataError(f"{where}: `{entry.value}` must be a recording, and has no rows or columns.")
        path = find(place.path, self._roots)
        return path if not entry.value.endswith(f":{place.offset}") else piece(place._replace(path=path))

    def _header(self, audio: str) -> tuple[float, int]:
        """Seconds and channels of a recording."""
        if audio not in self._headers:
            try:
                info = soundfile.info(open_audio(audio))
            except (soundfile.LibsndfileError, OSError) as error:
                raise DataError(f"`{audio}` cannot be opened: {str(error).rstrip('.')}") from error
            self._headers[audio] = info.frames / info.samplerate, info.channels
        return self._headers[audio]

    def _channel(self, recording: str, audio: str) -> int | None:
        """The channel that ``reco2file_and_channel`` names, where the recording has several."""
        entry = self.tables["reco2file_and_channel"].get(recording)
        label = entry.value.split()[-1] if entry and entry.value else ""
        return CHANNELS[label] if label in CHANNELS and self._header(audio)[1] > 1 else None

    def _restored(self, utterance: Utterance) -> Utterance:
        """The utterance with what our own table says of it."""
        entry = self.tables[KEPT].get(utterance.id)
        if entry is None:
            return utterance
        try:
            kept = json.loads(entry.value)
            extra = dict(utterance.extra) | kept.pop("extra", {})
            return utterance._replace(**kept, extra={key: value for key, value in extra.items() if value is not None})
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{self.path / KEPT}:{entry.line}: is not what we wrote: {error}") from error


def read_kaldi(folder: str | Path, *, trust_commands: bool = False) -> Iterator[Utterance | Problem]:
    """Yields the utterances of a data directory in the order of its tables, and a problem for each line that is wrong.

    Args:
        folder: with ``wav.scp``, and ``segments``, ``text``, ``utt2spk`` or ``spk2utt``, ``spk2gender``, ``utt2dur``,
            ``utt2lang``, ``utt2label``, ``reco2file_and_channel`` where they are there.
        trust_commands: whether commands in ``wav.scp`` run. What they print is kept in the cache as a recording.

    Raises:
        DataError: there is no ``wav.scp``.
    """
    return iter(Folder(folder, trust_commands=trust_commands))


def speakers(utt2spk: Mapping[str, Entry], spk2utt: Mapping[str, Entry]) -> dict[str, str]:
    """Returns utterance -> speaker; one who is called like the utterance is Kaldi's word for an unknown one."""
    found = {name: speaker for speaker, entry in spk2utt.items() for name in entry.value.split()}
    found |= {name: entry.value for name, entry in utt2spk.items()}
    return {name: speaker for name, speaker in found.items() if speaker != name}


def find(path: str, roots: list[Path]) -> str:
    """Returns where a path leads from the first of some folders in which it exists; from the first, if in none."""
    if os.path.isabs(path):
        return path
    for i, root in enumerate(roots):
        if (found := root / path).exists():
            roots.insert(0, roots.pop(i))  # the next ones are there too
            return os.fspath(found)
    return os.fspath(roots[0] / path)


def piece(place: Place) -> str:
    """Returns the locator of a recording that begins at an offset of a file, with its size as its own header says.

    Raises:
        DataError: there is no such file.
    """
    with opened(place.path) as file:
        whole = file.seek(0, os.SEEK_END) - place.offset
        file.seek(place.offset)
        head = file.read(16)
    at, size = place.offset, whole
    if head[:4] in (b"RIFF", b"RIFX") and len(head) >= 8:
        claimed = struct.unpack("<I" if head[:4] == b"RIFF" else ">I", head[4:8])[0]
        size = whole if claimed in UNKNOWN_SIZES else min(claimed + 8, whole)
    elif head[:5] == b"AUDIO" and len(head) > 5 + (width := head[5]):  # kaldiio's: a length of so many bytes follows
        at, size = at + 6 + width, min(int.from_bytes(head[6 : 6 + width], "little"), whole)
    return f"{place.path}?at={at}&size={max(0, size)}"


class Segment(NamedTuple):
    """A part of a recording: from an offset on, up to its end where there is no duration; all channels or one."""

    recording: str
    offset: float = 0.0
    duration: float | None = None
    channel: int | None = None


def _segment(value: str) -> Segment:
    """What stands behind the name of an utterance in ``segments``; a channel of -1 is none, as for Kaldi."""
    parts = value.split()
    if len(parts) not in (3, 4):
        raise DataError(f"must be utterance, recording, begin, end and maybe a channel, but has {len(parts) + 1} words")
    begin, end, *channels = (number(part) for part in parts[1:])
    if channels and (channels[0] < -1 or not channels[0].is_integer()):
        raise DataError(f"must have a channel from 0 on, or -1, as its last word, but has `{parts[3]}`")
    if begin < 0 or (end <= begin and end != -1):
        raise DataError(f"must go from second 0 or later to a later one, but from {parts[1]} to {parts[2]}")
    channel = int(channels[0]) if channels and channels[0] >= 0 else None
    return Segment(parts[0], begin, None if end == -1 else round(end - begin, 9), channel)


def number(text: str, *, above: float = -math.inf) -> float:
    """Returns a finite number out of a table.

    Raises:
        DataError: it is none, or not above a limit.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= above:
        raise DataError(f"`{text}` must be a number" + (f" above {above:g}" if above > -math.inf else ""))
    return value


def kept(data: bytes, command: str, ending: str) -> str:
    """Keeps the output of a command in the cache, and returns its path."""
    folder = cache_folder() / "kaldi"
    path = folder / f"{hashlib.sha256(command.encode() + b'|' + data).hexdigest()[:32]}{ending}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
    return os.fspath(path)
