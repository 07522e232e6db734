"""Read the spoken lines and their texts from `queen.1c`, the data file of the game Flight of the Amazon Queen.

The file starts with the word `QTBL`; at byte 13 stands the number of entries (16 bits, big-endian), then the entries
of 21 bytes: a name of 12 bytes, a byte, offset and size (32 bits each, big-endian). Dialogue files (`*.DOG`) hold the
lines of Joe, the hero, and of the character the file is named after. A line falls into segments at its stage directions
(`*` and two letters); a clip `*.SB`, an MP3 file, is named after talk key, line number, speaker and segment.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DIRECTION = re.compile(r"\*(?:XY..\(\d+,\d+\)|..)")
HEADER = 20  # bytes before the contents of a dialogue file


class Clip(NamedTuple):
    """A recorded line: its name in the table, what is said, who says it, and the MP3 file."""

    name: str
    text: str
    character: str
    audio: bytes


def clips(path: Path) -> Iterator[Clip]:
    """Yield the recorded dialogue lines of `queen.1c`, each once."""
    blob, seen = path.read_bytes(), set()
    table = read_table(blob)
    for entry, (offset, size) in table.items():
        if not entry.endswith(".DOG"):
            continue
        for prefix, line, character in dialogue(entry, blob[offset + HEADER : offset + size]):
            for number, text in enumerate(DIRECTION.split(line), start=1):
                name = f"{prefix}{number:x}".replace(" ", "0").upper() + ".SB"
                if text.strip() and name in table and name not in seen:
                    seen.add(name)
                    start, length = table[name]
                    yield Clip(name.removesuffix(".SB"), text.strip(), character, blob[start : start + length])


def read_table(blob: bytes) -> dict[str, tuple[int, int]]:
    """Name to (offset, size) of every entry.

    Raises:
        ValueError: the file is not the talkie's data file.
    """
    if blob[:4] != b"QTBL":
        raise ValueError(f"`queen.1c` must begin with b'QTBL', but begins with {blob[:4]!r} instead.")
    (count,) = struct.unpack_from(">H", blob, 13)
    entries = (struct.unpack_from(">12sBII", blob, 15 + 21 * index) for index in range(count))
    return {name.split(b"\0")[0].decode("latin-1"): (offset, size) for name, _, offset, size in entries}


def dialogue(entry: str, data: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield (beginning of the clips' names, line, character) of one dialogue file."""
    levels, key = abs(number(data, 0)), number(data, 4)
    guest = entry.removesuffix(".DOG").rstrip("0123456789")
    for at, count, code, who in (
        (32 + 96 * levels, number(data, 6), "J", "JOE"),
        (number(data, 22), number(data, 8), "P", guest),
    ):
        for index in range(count):
            line_id = number(data, at + 2) & 0xFFFF
            line, at = string(data, at + 4, align=4)
            yield f"{key:2d}{line_id:4x}{code}", line, who
            if index == 0:
                yield f"{key:2d}SSSS{code}", line, who
    again, at = string(data, number(data, 26), align=2)
    yield f"{key:2d}XXXXP", again, guest
    yield f"{key:2d}XXXXJ", string(data, at, align=2)[0], "JOE"


def number(data: bytes, at: int) -> int:
    """A signed big-endian number of 16 bits."""
    value: int = struct.unpack_from(">h", data, at)[0]
    return value


def string(data: bytes, at: int, *, align: int) -> tuple[str, int]:
    """A text that follows its length, and where the next thing stands: at a multiple of `align`, if it is not empty."""
    length, at = data[at], at + 1
    after = (at + length + align - 1) // align * align if length else at
    return data[at : at + length].decode("cp437"), after
