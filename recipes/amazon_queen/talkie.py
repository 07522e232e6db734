"""Fetch the game Flight of the Amazon Queen, and read the spoken lines and their texts from its data file, `queen.1c`.

The file starts with the word `QTBL`; at byte 13 stands the number of entries (16 bits, big-endian), then the entries
of 21 bytes: a name of 12 bytes, a byte, offset and size (32 bits each, big-endian). Clips (`*.SB`) are MP3 files. Texts
are in three places: dialogue files (`*.DOG`) hold the lines of Joe, the hero, and of the character the file is named
after; cutaways (`*.CUT`) the lines of the objects that act in them; `QUEEN2.JAS` what Joe says about things, and the
names of objects. A line falls into segments at its stage directions (`*` and two letters), one clip for each.
"""

import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from debian import unpack

PACKAGE = "flight-of-the-amazon-queen"
HELD_OUT = {"dev": {"FAYE", "ORACLE", "SEC"}, "test": {"APE", "BOB", "CHIEF", "KLUNK", "TAM", "WITCH"}}

DIRECTION = re.compile(r"\*(?:XY..\(\d+,\d+\)|..)")
HEADER = 20  # bytes before the contents of a file
VERBS = 12  # lines of QUEEN2.JAS between the names of rooms and Joe's answers
ANSWERS = 40  # numbers of clips that are kept for them
JOE, FADE, END = 0, -1, -2  # numbers of objects: the hero, again the hero after a fade, no more frames
UNNAMED = ""  # the character of a line whose speaker the file does not tell
THINGS = {"buttons", "door", "lily pad", "note", "path", "rock", "smoke", "telephone", "torch"}  # hold speakers' places
SAME = {  # objects by the name of the dialogue file of the same character
    "anderson": "AND",
    "azura obj": "PRIN",
    "bedraggled prisoner": "MAN",
    "ferryman": "DEATH",
    "gorilla": "APE",
    "guard dog": "DOG",
    "guardian": "ORACLE",
    "jimmy": "JIM",
    "joe king": "JOE",
    "mary-lou": "TAM",
    "princess azura": "PRIN",
    "secretary": "SEC",
    "showering amazon": "SHOWERAM",
    "trader bob": "BOB",
    "wedgewood": "WEDGE",
    "witch doctor": "WITCH",
    "zombie woman": "ZOMBIE",
}


class Clip(NamedTuple):
    """A recorded line: its name in the table, what is said, who says it, where the text stands, and the MP3 file."""

    name: str
    text: str
    character: str
    source: str
    audio: bytes


def fetch(cache: Path) -> Path:
    """The game's data file; downloads and unpacks its Debian package unless it is in `cache`."""
    unpack(PACKAGE, cache)
    return cache / "usr/share/scummvm" / PACKAGE / "queen.1c"


def split_of(character: str) -> str:
    """`test` or `dev` for the characters held out, `train` for all others."""
    return next((split for split, those in HELD_OUT.items() if character in those), "train")


def clips(path: Path) -> Iterator[Clip]:
    """Yield the recorded lines of `queen.1c`, each once."""
    blob, seen = path.read_bytes(), set()
    table = read_table(blob)

    def contents(entry: str, skip: int = HEADER) -> bytes:
        offset, size = table[entry]
        return blob[offset + skip : offset + size]

    remarks, names = read_jas(contents("QUEEN.JAS"), contents("QUEEN2.JAS", 0)) if "QUEEN.JAS" in table else ([], {})
    for entry in table:
        if entry.endswith(".DOG"):
            lines = dialogue(entry, contents(entry))
        elif entry.endswith(".CUT"):
            lines = cutaway(entry, contents(entry), names)
        elif entry == "QUEEN2.JAS":
            lines = iter(remarks)
        else:
            continue
        for prefix, line, character in lines:
            for number, text in enumerate(DIRECTION.split(line), start=1):
                name = f"{prefix}{number:x}".replace(" ", "0").upper() + ".SB"
                if text.strip() and name in table and name not in seen:
                    seen.add(name)
                    yield Clip(name.removesuffix(".SB"), text.strip(), character, entry, contents(name, 0))


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


def read_jas(data: bytes, text: bytes) -> tuple[list[tuple[str, str, str]], dict[int, str]]:
    """What Joe says about things, as (beginning of the clips' names, line, JOE), and number to name of each object.

    `data` begins with the counts of rooms, names, objects and descriptions; an object takes 16 bytes, the first two of
    them the number of its name, negative while it is hidden. `text` has a line for each description, name and room.
    """
    rooms, names, objects, descriptions = (number(data, at) for at in range(0, 8, 2))
    lines = text.decode("cp437").split("\r\n")
    answers = lines[descriptions + names + rooms + VERBS :][:ANSWERS]
    numbered = [*enumerate(answers, start=1), *enumerate(lines[:descriptions], start=ANSWERS + 1)]
    called = {index: abs(number(data, 8 + 16 * (index - 1))) for index in range(1, objects + 1)}
    known = {index: lines[descriptions + name - 1].lower() for index, name in called.items() if name}
    return [(f"JOE{index:04d}", line, "JOE") for index, line in numbered], known


def cutaway(entry: str, data: bytes, names: dict[int, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (beginning of the clips' names, line, character) of one cutaway: a line for each object that acts."""
    stem, at = entry.removesuffix(".CUT").ljust(5, "_"), 12
    _, then = string(data, number(data, 8) & 0xFFFF, align=2)
    for index in range(1, abs(number(data, 2)) + 1):
        if then >= len(data):
            return
        acting, frames, execute, copied = (number(data, at + 2 * field) for field in (0, 4, 5, 12))
        at += 36 + 2 * number(data, at + 34)  # 17 numbers, then the people who are shown
        if frames and execute and copied <= 0 and acting >= FADE:
            while number(data, at) != END:
                at += 20
            at += 2
        line, then = string(data, then, align=2)
        yield f"{stem}{index:02d}", line, "JOE" if acting in (JOE, FADE) else person(names.get(acting, UNNAMED))


def person(name: str) -> str:
    """The character behind an object's name."""
    return UNNAMED if name in THINGS else SAME.get(name, name.upper())


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
