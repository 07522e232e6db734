"""Lhotse's cuts, ``.jsonl`` or ``.jsonl.gz``: a cut is an utterance, and its supervisions say what is in it."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from anemone.data.jsonlines import text_of
from anemone.data.locators import below, is_url
from anemone.data.problems import Problem
from anemone.data.sources import Utterance
from anemone.data.sources.jsonl import made, rows, writing
from anemone.data.sources.lines import folder_of
from anemone.data.sources.names import expand
from anemone.data.sources.pieces import Header, as_file, header, seconds
from anemone.errors import DataError

CUTS = ("MonoCut", "MultiCut")
SAVE = "write them out with Lhotse's `save_audios` first"


def is_cut(row: Mapping[str, Any]) -> bool:
    """Whether an object of JSON is a cut."""
    return str(row.get("type", "")).endswith("Cut") and "id" in row


def read_lhotse(path: str | Path) -> Iterator[Utterance | Problem]:
    """Yields the cuts of a manifest, or of all that a pattern names."""
    for name in expand(os.fspath(path)):
        folder = folder_of(name)
        for number, row in rows(name):
            if isinstance(row, Problem):
                yield row
            else:
                yield made(partial(utterance_of, row, folder), name, number)


def utterance_of(row: Mapping[str, Any], folder: str, audio: str | None = None) -> Utterance:
    """Returns the utterance of a cut.

    Args:
        row: the cut.
        folder: that paths are taken from, where they do not lead to a file from the working directory.
        audio: locator of its recording, where the cut does not say it.

    Raises:
        ValueError: it is a mixture, runs a command, or is wrong otherwise.
    """
    if row.get("type") not in CUTS:
        raise ValueError(f"`type` must be {' or '.join(CUTS)}, but is {row.get('type')!r} instead; {SAVE}")
    try:
        recording, parts = row["recording"], row.get("supervisions") or []
        if recording.get("transforms"):
            raise ValueError(
                f"`transforms` must be empty: cuts that are changed when they are loaded are not read; {SAVE}"
            )
        channel, source = _source(row, recording)
        custom = dict(row.get("custom") or {})
        texts = [part["text"] for part in parts if part.get("text") is not None]
        speakers = {part["speaker"] for part in parts if part.get("speaker") is not None}
        for part in parts:
            about = {key: part[key] for key in ("language", "gender") if part.get(key) is not None}
            custom = about | (part.get("custom") or {}) | custom
        return Utterance(
            str(row["id"]),
            audio or _path(source, folder),
            float(row["start"]),
            float(row["duration"]),
            " ".join(texts) if texts else None,
            text_of(custom.pop("label", None)),
            str(speakers.pop()) if len(speakers) == 1 else None,
            channel,
            custom,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"must be a cut with a recording, but lacks or has a wrong {error}") from error


def _source(row: Mapping[str, Any], recording: Mapping[str, Any]) -> tuple[int | None, Mapping[str, Any]]:
    """The channel in the file, None for all, and the file."""
    wanted = row["channel"] if isinstance(row["channel"], list) else [row["channel"]]
    for source in recording["sources"]:
        if set(wanted) <= set(source["channels"]):
            if len(wanted) == len(source["channels"]):
                return None, source
            if len(wanted) == 1:
                return source["channels"].index(wanted[0]), source
    raise ValueError(f"`channel` must be one channel of a file, or all, but is {row['channel']!r} instead")


def _path(source: Mapping[str, Any], folder: str) -> str:
    kind, path = source["type"], source["source"]
    if kind not in ("file", "url") or not isinstance(path, str) or not path:
        more = "; commands are not run" if kind == "command" else ""
        raise ValueError(f"`source` must be a file or URL, but is of type {kind!r}{more}")
    if kind == "file" and is_url(path):
        raise ValueError(f"`source` must be a file, but is {path!r} instead")
    return path if is_url(path) else os.path.abspath(path) if os.path.exists(path) else below(folder, path)


def write_lhotse(utterances: Iterable[Utterance], path: str | Path) -> list[Problem]:
    """Writes cuts; recordings stay where they are, but for those in tars and parquet files: they are copied beside."""
    target, problems = Path(path), list[Problem]()
    with writing(target) as file:
        for number, each in enumerate(utterances, start=1):
            try:
                url = is_url(each.audio) and "?" not in each.audio
                audio = each.audio if url else as_file(each.audio, target.parent / "audio")
                about = header(each.audio)
                row = cut_of(each, about, {"type": "url" if url else "file", "source": audio}, name=Path(audio).stem)
            except DataError as error:
                problems.append(Problem(os.fspath(path), number, f"`{each.id}`: {error}"))
            else:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return problems


def cut_of(each: Utterance, about: Header, source: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Returns the cut of an utterance.

    Args:
        each: the utterance.
        about: its recording.
        source: where Lhotse finds that.
        name: of the recording.

    Raises:
        DataError: the recording has no such channel or second.
    """
    if each.channel is not None and each.channel >= about.channels:
        raise DataError(f"`{each.audio}` has {about.channels} channel(s), so there is no channel {each.channel}.")
    channels = list(range(about.channels))
    channel = 0 if about.channels == 1 else channels if each.channel is None else each.channel
    left = about.seconds - each.offset
    length = min(seconds(each), left)
    if length <= 0:
        raise DataError(f"`{each.audio}` holds no audio from second {each.offset:g} on.")
    extra = {key: value for key, value in each.extra.items() if key not in ("language", "gender")}
    custom = extra if each.label is None else {"label": each.label} | extra
    said = {key: each.extra[key] for key in ("language", "gender") if isinstance(each.extra.get(key), str)}
    said |= {key: value for key, value in (("text", each.text), ("speaker", each.speaker)) if value is not None}
    part = {"id": each.id, "recording_id": name, "start": 0.0, "duration": length, "channel": channel, **said}
    return {
        "id": each.id,
        "start": each.offset,
        "duration": length,
        "channel": channel,
        "supervisions": [part] if said else [],
        "recording": {
            "id": name,
            "sources": [{"channels": channels, **source}],
            "sampling_rate": about.rate,
            "num_samples": about.frames,
            "duration": about.seconds,
            "channel_ids": channels,
        },
        **({"custom": custom} if custom else {}),
        "type": "MultiCut" if isinstance(channel, list) else "MonoCut",
    }
