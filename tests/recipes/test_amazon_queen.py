"""The reader of the game's data file finds lines, speakers and clips in a made-up file of the same form."""

import importlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from anemone.training.experiment import train
from anemone.training.settings import experiment

RECIPE = Path(__file__).parents[2] / "recipes/amazon_queen"


@pytest.fixture
def talkie(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    return importlib.import_module("talkie")


@pytest.fixture
def prepare(prepare_of: Callable[[str], ModuleType]) -> ModuleType:
    return prepare_of("amazon_queen")


def text(line: str) -> bytes:
    """A line after its length."""
    return bytes([len(line)]) + line.encode("cp437")


def dialogue(joe: list[str], guest: list[str], *, key: int) -> bytes:
    """A dialogue file without levels: 32 bytes of numbers, Joe's lines, the guest's lines, two closing lines."""

    def lines(those: list[str], at: int) -> bytes:
        out = bytearray()
        for index, line in enumerate(those):
            out += struct.pack(">hh", 0, 16 + index) + text(line)
            while (at + len(out)) % 4:
                out += b"\0"
        return bytes(out)

    first = lines(joe, 32)
    second = lines(guest, 32 + len(first))
    person = 32 + len(first)
    extra = person + len(second)
    head = struct.pack(">hhhhhhhhhhhhhhhh", 0, 0, key, len(joe), len(guest), *[0] * 6, person, 0, extra, 0, 0)
    tail = text("Come back")
    tail += b"\0" * (-(extra + len(tail)) % 2)
    return bytes(20) + head + first + second + tail + text("Bye")


def game(entries: dict[str, bytes]) -> bytes:
    """A data file: signature, number of entries, table, contents."""
    at, table, contents = 15 + 21 * len(entries), b"", b""
    for name, data in entries.items():
        table += struct.pack(">12sBII", name.encode(), 0, at + len(contents), len(data))
        contents += data
    return b"QTBL" + bytes(9) + struct.pack(">H", len(entries)) + table + contents


def cutaway(acts: list[tuple[int, int, str]]) -> bytes:
    """A cutaway of (object, frames of animation, line): numbers, objects each with one person shown, the lines."""
    body = b""
    for acting, frames, _ in acts:
        numbers = [acting, 0, 0, 0, frames, int(frames > 0)] + [0] * 11
        body += struct.pack(">17hhh", *numbers, 1, 99)
        body += b"".join(struct.pack(">10h", 1, *[0] * 9) for _ in range(frames)) + (b"\xff\xfe" if frames else b"")
    lines = b""
    for line in ["*FR", *(line for *_, line in acts)]:
        lines += text(line)
        lines += b"\0" * (len(lines) % 2)
    return bytes(20) + struct.pack(">hhhhhh", 0, -len(acts), 0, 0, 12 + len(body), 0) + body + lines


def jas(names: dict[int, str], descriptions: list[str], answers: list[str]) -> dict[str, bytes]:
    """The two files with Joe's remarks and the names of three objects; there is one room."""
    order = sorted(names.values())
    data = struct.pack(">4h", 1, len(order), 3, len(descriptions))
    for index in (1, 2, 3):
        data += struct.pack(">8h", -(order.index(names[index]) + 1) if index in names else 0, *[0] * 7)
    lines = [*descriptions, *order, "A ROOM", *["verb"] * 12, *answers]
    return {"QUEEN.JAS": bytes(20) + data, "QUEEN2.JAS": "\r\n".join(lines).encode("cp437")}


def mp3(seconds: float) -> bytes:
    """A tone as an MP3 file of the game's rate."""
    stored = BytesIO()
    soundfile.write(stored, np.sin(np.arange(round(seconds * 11_025)) / 4), 11_025, format="MP3")
    return stored.getvalue()


SOUNDS = "07SSSSJ1 070011J2 070011J3 070010P1 07XXXXP1 C1A__011 C1A__021 C1A__041 C1A__042 C1A__051 JOE00021 JOE00411"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    talk = dialogue(["Hello there!", "*AAWait.*BB Now go."], ["Why?"], key=7)
    acts = [(0, 0, "I see."), (2, 0, "Do you?"), (3, 2, "*"), (3, 0, "Squawk!*AANo, 24."), (1, 0, "Hmmmm, no.")]
    objects = {1: "note", 2: "Trader Bob", 3: "Rita"}
    sounds = {f"{name}.SB": mp3(0.5 + i / 10) for i, name in enumerate(SOUNDS.split())}
    remarks = jas(objects, ["It looks nice."], ["No way.", "I can't."])
    files = {"WITCH2.DOG": talk, "PICTURE.PCX": b"?", "C1A.CUT": cutaway(acts)} | remarks | sounds
    path = tmp_path / "package/usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
    path.parent.mkdir(parents=True)
    path.write_bytes(game(files))
    (tmp_path / "package/usr/share/doc/flight-of-the-amazon-queen").mkdir(parents=True)
    return path


def test_every_recorded_segment_is_found_with_its_text_and_character(talkie, data):
    found = {c.name: (c.text, c.character) for c in talkie.clips(data)}
    assert found == {
        "07SSSSJ1": ("Hello there!", "JOE"),
        "070011J2": ("Wait.", "JOE"),
        "070011J3": ("Now go.", "JOE"),
        "070010P1": ("Why?", "WITCH"),
        "07XXXXP1": ("Come back", "WITCH"),
        "C1A__011": ("I see.", "JOE"),
        "C1A__021": ("Do you?", "BOB"),
        "C1A__041": ("Squawk!", "RITA"),
        "C1A__042": ("No, 24.", "RITA"),
        "C1A__051": ("Hmmmm, no.", ""),
        "JOE00021": ("I can't.", "JOE"),
        "JOE00411": ("It looks nice.", "JOE"),
    }
    assert next(c.audio for c in talkie.clips(data) if c.name == "JOE00411") == mp3(1.6)


def test_another_file_is_refused(talkie):
    with pytest.raises(ValueError, match=r"`queen.1c` must begin with b'QTBL', but begins with b'RIFF' instead\."):
        talkie.read_table(b"RIFF" + bytes(40))


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("\"Errrr, you're in the D.N.A. 'lab'...\"", "err you're in the d n a lab"),
        ("Ha ha haaaar!", None),
        ("Hoo-ha? Ah, how?", "hoo ha ah how"),
        ("<sneeze>", None),
        ("24 Hours", None),
        ("...", None),
    ],
)
def test_texts_are_written_as_words_or_left_out(prepare, written, words):
    assert prepare.normalised(written) == words


def test_characters_are_held_out_and_what_no_word_renders_is_left_out(prepare, data, tmp_path):
    counts = prepare.prepare(tmp_path / "out", tmp_path / "package")
    assert {split: lines for split, (lines, _) in counts.items()} == {"train": 6, "dev": 0, "test": 3}
    rows = [json.loads(line) for line in (tmp_path / "out/test.jsonl").read_text("utf-8").splitlines()]
    assert [(row["text"], row["speaker"], row["text_in_train"]) for row in rows] == [
        ("why", "WITCH", False),
        ("come back", "WITCH", False),
        ("do you", "BOB", False),
    ]
    info = soundfile.info(tmp_path / "out" / rows[0]["audio_filepath"])
    assert (info.samplerate, info.duration) == (16_000, pytest.approx(rows[0]["duration"]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_lines_can_be_fetched_and_a_run_scores_characters_held_out(tmp_path, monkeypatch):
    """Needs apt-get and dpkg; some minutes."""
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, RECIPE / "prepare.py", "data/amazon_queen"], check=True)
    settings = ["trainer.max_epochs=null", "trainer.max_steps=20", "run.progress=none"]
    result = train(experiment("amazon_queen_fastconformer_ctc", settings))
    lines = Path("data/amazon_queen/test.jsonl").read_text("utf-8").splitlines()
    assert result.metrics["test/utterances"] == len(lines) > 100 and result.metrics["test/cer"] <= 1
