"""Google Speech Commands (arXiv:1804.03209) to manifests: the layout of versions 1 and 2, official lists included.

``word/SPEAKER_nohash_N.wav`` are recordings of about a second; ``validation_list.txt`` and ``testing_list.txt`` name
those that are not for training; ``_background_noise_`` holds minutes of noise. The variant with 12 classes has ten
words, ``_unknown_`` (other words) and ``_silence_`` (seconds of noise), the last two as large as a word in each split.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import soundfile

from anemone.errors import DataError

TEN = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
V1 = (
    *TEN,
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow"),
)
WORDS = {"v1": V1, "v2": (*V1, "backward", "follow", "forward", "learn", "visual")}
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
NOISE = "_background_noise_"
# share of each noise recording that a split's silence is cut from: no second of noise is in two splits
NOISE_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}

Entry = dict[str, Any]
log = logging.getLogger("anemone.data")


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    version: Literal["auto", "v1", "v2"] = "auto",
    classes: Literal["all", "12"] = "all",
) -> dict[str, Path]:
    """Writes the manifests of a folder of Speech Commands and returns them by split: train, validation, test.

    Args:
        folder: where the archive is unpacked.
        out: where ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` go; made if it does not exist.
        version: "v1" (30 words) or "v2" (35) insists on all of its words and takes no others; "auto" takes what is
            there.
        classes: "all" words, or "12" classes.

    Raises:
        DataError: the folder has not the layout of Speech Commands, or lacks a word; says which.
    """
    root, goal = Path(folder).expanduser(), Path(out).expanduser()
    words = _words(root, version, classes)
    splits = {split: list(_entries(root, names)) for split, names in _splits(root, words).items()}
    if classes == "12":
        noises = [_entry(path, "_silence_") for path in sorted((root / NOISE).glob("*.wav"))]
        splits = {split: _twelve(entries, noises, split) for split, entries in splits.items()}
    goal.mkdir(parents=True, exist_ok=True)
    return {split: _write(entries, root, goal / f"{split}.jsonl") for split, entries in splits.items()}


def _words(root: Path, version: str, classes: str) -> list[str]:
    """The words there are, after a look at the layout."""
    missing = [name for name in LISTS.values() if not (root / name).is_file()]
    missing += [NOISE] if classes == "12" and not list((root / NOISE).glob("*.wav")) else []
    if missing:
        raise DataError(
            f"`{root}` must be an unpacked Speech Commands archive, but lacks {', '.join(missing)}."
            " Give the folder that holds a folder for each word."
        )
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] not in "_.")
    wanted = found if version == "auto" else sorted(WORDS[version])
    wanted = sorted({*wanted, *TEN}) if classes == "12" else wanted
    absent = [word for word in wanted if word not in found]
    if absent or not found:
        raise DataError(f"`{root}` must hold a folder for each word, but lacks {', '.join(absent) or 'all of them'}.")
    return wanted


def _splits(root: Path, words: Sequence[str]) -> dict[str, list[str]]:
    """Recordings of each split as ``word/file.wav``: two by their lists, training is the rest."""
    listed = {split: set((root / name).read_text("utf-8").split()) for split, name in LISTS.items()}
    present = sorted(f"{word}/{path.name}" for word in words for path in (root / word).glob("*.wav"))
    for split, names in listed.items():
        absent = sorted(name for name in names - set(present) if name.split("/")[0] in words)
        if absent:
            log.warning("%s names %d recordings that do not exist, as %s", root / LISTS[split], len(absent), absent[0])
    splits = {"train": [name for name in present if not any(name in names for names in listed.values())]}
    splits |= {split: [name for name in present if name in names] for split, names in listed.items()}
    empty = [split for split, names in splits.items() if not names]
    if empty:
        raise DataError(f"`{root}` must hold recordings for each split, but has none for {', '.join(empty)}.")
    return splits


def _entries(root: Path, names: Sequence[str]) -> Iterator[Entry]:
    """The lines of a manifest; recordings that cannot be opened are reported and left out."""
    for name in names:
        try:
            yield _entry(root / name, name.split("/")[0])
        except soundfile.LibsndfileError as error:
            log.warning("%s is left out: %s", root / name, error.error_string)


def _entry(path: Path, label: str) -> Entry:
    seconds = soundfile.info(str(path)).duration
    speaker, hashed, _ = path.stem.partition("_nohash_")
    known = {"speaker": speaker} if hashed else {}
    return {"audio_filepath": path, "duration": round(seconds, 6), "label": label, **known}


def _twelve(entries: Sequence[Entry], noises: Sequence[Entry], split: str) -> list[Entry]:
    """The ten words, and as many of `_unknown_` and of `_silence_` as a word has in the mean."""
    ten = [entry for entry in entries if entry["label"] in TEN]
    size = round(len(ten) / len(TEN))
    others = [entry | {"label": "_unknown_"} for entry in entries if entry["label"] not in TEN]
    others.sort(key=lambda entry: hashlib.sha256("/".join(entry["audio_filepath"].parts[-2:]).encode()).digest())
    return [*ten, *others[:size], *_silence(noises, size, split)]


def _silence(noises: Sequence[Entry], count: int, split: str) -> list[Entry]:
    """``count`` seconds of noise, evenly spread over the split's share of each recording."""
    from_share, to_share = NOISE_SHARES[split]
    cuts: list[Entry] = []
    for i, noise in enumerate(noises):
        here = count * (i + 1) // len(noises) - count * i // len(noises)
        start, stop = from_share * noise["duration"], to_share * noise["duration"]
        length = min(1.0, stop - start)
        step = (stop - start - length) / max(1, here - 1)
        cuts += [noise | {"offset": round(start + k * step, 4), "duration": round(length, 4)} for k in range(here)]
    return cuts


def _write(entries: Sequence[Entry], root: Path, path: Path) -> Path:
    """Writes a manifest; paths are relative if the recordings lie below it."""
    below = root.resolve().is_relative_to(path.parent.resolve())

    def line(entry: Mapping[str, Any]) -> str:
        audio = entry["audio_filepath"].resolve()
        name = audio.relative_to(path.parent.resolve()) if below else audio
        return json.dumps({**entry, "audio_filepath": str(name)}) + "\n"

    path.write_text("".join(map(line, entries)), "utf-8")
    return path
