"""Rows of names and values, as manifests and tables have them, to utterances and back."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from anemone.data.jsonlines import KEYS, TEXT_FILE, text_in, text_of
from anemone.data.locators import below, name_of
from anemone.data.sources import Utterance

MANIFEST = {**KEYS, "speaker": ("speaker",), "id": ("id",), "channel": ("channel",)}
"""What an utterance has -> the keys of a manifest that may hold it, the usual one first."""

TABLE = {
    "audio": ("path", "audio", "file_name", "file", "filename", *KEYS["audio"], "wav", "wav_filename"),
    "offset": ("offset", "start"),
    "duration": ("duration",),
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text"),
    "label": KEYS["label"],
    "speaker": ("speaker", "client_id", "speaker_id"),
    "id": ("id", "utt_id"),
    "channel": ("channel",),
}
"""The same of tables."""


def utterance(
    row: Mapping[str, Any],
    folder: str,
    keys: Mapping[str, Sequence[str]] = MANIFEST,
    *,
    audio: str | None = None,
    name: str | None = None,
    without: Collection[str] = (),
) -> Utterance:
    """Returns the utterance of a row.

    Args:
        row: names and values; nulls are as if they were not there.
        folder: that paths are taken from.
        keys: names that may hold what an utterance has.
        audio: the recording's locator, where the row does not say it.
        name: the id of a row without one.
        without: further names to leave out.

    Raises:
        ValueError: a value is missing or impossible; says which.
    """
    used, value = dict[str, str](), dict[str, Any]()
    for field, names in keys.items():
        for key in names:
            if row.get(key) is not None:
                used[field], value[field] = key, row[key]
                break
    if audio is None:
        audio = below(folder, _text(value, used, "audio", keys))
    offset = _number(value, used, "offset", zero=True) or 0.0
    channel = _number(value, used, "channel", zero=True)
    if channel is not None and channel != int(channel):
        raise ValueError(f"`{used['channel']}` must be the number of a channel, but is {channel!r} instead")
    text = value.get("text")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"`{used['text']}` must be a string, but is {text!r} instead")
    gone = {*used.values(), *without}
    if text is None and isinstance(row.get(TEXT_FILE), str):
        text, gone = text_in(below(folder, row[TEXT_FILE])), {*gone, TEXT_FILE}
    plain = {field: text_of(value[field]) for field in ("label", "speaker", "id") if value.get(field) is not None}
    return Utterance(
        plain.get("id") or name or name_of(audio, offset),
        audio,
        offset,
        _number(value, used, "duration"),
        text,
        plain.get("label"),
        plain.get("speaker"),
        None if channel is None else int(channel),
        {key: each for key, each in row.items() if key not in gone and each is not None},
    )


def row_of(utterance: Utterance, audio: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the row of an utterance: what it has under the names given, then what else it has under its own.

    Args:
        utterance: what to write.
        audio: its locator as it is written.
        names: of the fields, in their order; a field that is not in it is left out.
    """
    fields = utterance._asdict() | {"audio": audio, "offset": utterance.offset or None}
    own = {name: fields[field] for field, name in names.items() if fields[field] is not None}
    return own | {key: value for key, value in utterance.extra.items() if key not in {*own, *names.values()}}


def _text(value: Mapping[str, Any], used: Mapping[str, str], field: str, keys: Mapping[str, Sequence[str]]) -> str:
    """A string that is not empty."""
    found = value.get(field)
    if found is None:
        raise ValueError(f"lacks `{keys[field][0]}`")
    if isinstance(found, dict) and isinstance(found.get("path"), str):
        found = found["path"]
    if not isinstance(found, str) or not found:
        raise ValueError(f"`{used[field]}` must be a path, but is {found!r} instead")
    if "\0" in found:
        raise ValueError(f"`{used[field]}` must be a path, but holds a zero byte")
    return found


def _number(value: Mapping[str, Any], used: Mapping[str, str], field: str, *, zero: bool = False) -> float | None:
    """A number, also one that is written as a string; above 0, or 0 too."""
    found = value.get(field)
    if found is None or found == "":
        return None
    rule = f"`{used[field]}` must be {'0 or more' if zero else 'above 0 seconds'}, but is {found!r} instead"
    try:
        number = math.nan if isinstance(found, bool) else float(found)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(rule) from error
    if not (0 < number < math.inf or (zero and number == 0)):
        raise ValueError(rule)
    return number
