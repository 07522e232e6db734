"""Folders of audio with transcripts beside: ``SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt``, as LibriSpeech's."""

import io
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import soundfile

from anemone.data.problems import Problem
from anemone.data.sources import Utterance
from anemone.data.sources.jsonl import made, writing
from anemone.data.sources.lines import lines
from anemone.data.sources.pieces import piece, put, seconds
from anemone.errors import DataError

ENDINGS = (".flac", ".wav", ".mp3", ".ogg", ".opus")
TRANSCRIPT = ".trans.txt"
CHAPTER = "0"
NOBODY = "_"  # folder of utterances without a speaker


def read_librispeech(folder: str | Path) -> Iterator[Utterance | Problem]:
    """Yields the utterances of all transcripts of a folder; the first folder below it is the speaker.

    Raises:
        DataError: there is no transcript.
    """
    home = Path(folder).absolute()
    found = sorted(home.rglob(f"*{TRANSCRIPT}"))
    if not found:
        raise DataError(f"`{folder}` must have transcripts such as `1/2/1-2{TRANSCRIPT}`, but has none.")
    for path in found:
        parts = path.relative_to(home).parts
        speaker = parts[-3] if len(parts) > 2 else parts[0] if len(parts) > 1 else NOBODY
        for number, line in lines(os.fspath(path)):
            yield made(
                partial(_utterance, line, path.parent, None if speaker == NOBODY else speaker), os.fspath(path), number
            )


def _utterance(line: bytes, folder: Path, speaker: str | None) -> Utterance:
    """The utterance of a line ``ID TEXT``.

    Raises:
        ValueError: it has no file of audio in the folder, or is no text.
    """
    name, _, text = line.decode().removesuffix("\r").partition(" ")
    if not name or "/" in name or name in (".", "..") or "\0" in name:
        raise ValueError(f"must begin with the name of a file, but with {name!r} instead")
    audio = next((path for ending in ENDINGS if (path := folder / f"{name}{ending}").is_file()), None)
    if audio is None:
        raise ValueError(f"`{name}` must have its audio beside, as {name}.flac or .wav, but has none")
    return Utterance(name, os.fspath(audio), text=text, speaker=speaker)


def write_librispeech(utterances: Iterable[Utterance], folder: str | Path) -> list[Problem]:
    """Writes folders of speakers with FLACs and transcripts; each utterance is cut out of its recording."""
    home, problems = Path(folder), list[Problem]()
    texts: dict[str, list[str]] = {}
    for number, each in enumerate(utterances, start=1):
        speaker = NOBODY if each.speaker is None else each.speaker
        try:
            for what, name in (("id", each.id), ("speaker", speaker)):
                if not name or name.startswith(".") or set("/?\0 \t\r\n") & set(name) or len(name.encode()) > 200:
                    raise DataError(f"`{what}` must be a name of a file, without spaces, but is {name!r} instead.")
            if set("\r\n") & set(each.text or ""):
                raise DataError("`text` must be one line.")
            data, ending = _lossless(*piece(each._replace(duration=seconds(each)), tail=0.0))
            put(home / speaker / CHAPTER / f"{each.id}{ending}", data)
        except DataError as error:
            problems.append(Problem(os.fspath(folder), number, f"`{each.id}`: {error}"))
        else:
            texts.setdefault(speaker, []).append(f"{each.id} {each.text or ''}\n")
    for speaker, written in texts.items():
        with writing(home / speaker / CHAPTER / f"{speaker}-{CHAPTER}{TRANSCRIPT}") as file:
            file.writelines(written)
    return problems


def _lossless(data: bytes, ending: str) -> tuple[bytes, str]:
    """A WAV of 16 bits as FLAC, which has the same samples; other files as they are."""
    if ending != ".wav":
        return data, ending
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        if file.subtype != "PCM_16" or file.channels > 8 or file.samplerate > 655_350:
            return data, ending
        samples, rate = file.read(dtype="int16"), file.samplerate
    packed = io.BytesIO()
    soundfile.write(packed, samples, rate, format="FLAC", subtype="PCM_16")
    return packed.getvalue(), ".flac"
