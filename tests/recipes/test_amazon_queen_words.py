"""The parser of the game's data file finds lines, speakers and clips in a made-up file of the same form."""

import importlib.util
import json
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from anemone.training.experiment import train
from anemone.training.settings import experiment

RECIPE = Path(__file__).parents[2] / "recipes/amazon_queen_words"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"amazon_queen_{name}", RECIPE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


talkie = load("talkie")


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


@pytest.fixture
def data(tmp_path: Path) -> Path:
    talk = dialogue(["Hello there!", "*AAWait.*BB Now go."], ["Why?"], key=7)
    sounds = {"07SSSSJ1.SB": b"a", "070011J2.SB": b"b", "070011J3.SB": b"c", "070010P1.SB": b"d", "07XXXXP1.SB": b"e"}
    path = tmp_path / "queen.1c"
    path.write_bytes(game({"WITCH2.DOG": talk, "PICTURE.PCX": b"?"} | sounds))
    return path


def test_every_recorded_segment_is_found_with_its_text_and_character(data):
    assert {(c.name, c.text, c.character, c.audio) for c in talkie.clips(data)} == {
        ("07SSSSJ1", "Hello there!", "JOE", b"a"),
        ("070011J2", "Wait.", "JOE", b"b"),
        ("070011J3", "Now go.", "JOE", b"c"),
        ("070010P1", "Why?", "WITCH", b"d"),
        ("07XXXXP1", "Come back", "WITCH", b"e"),
    }


def test_another_file_is_refused():
    with pytest.raises(ValueError, match=r"`queen.1c` must begin with b'QTBL', but begins with b'RIFF' instead\."):
        talkie.read_table(b"RIFF" + bytes(40))


def test_the_cut_list_holds_30_takes_a_word_and_neither_text_nor_audio():
    cuts = [json.loads(line) for line in (RECIPE / "cuts.jsonl").read_text("utf-8").splitlines()]
    assert min(Counter(cut["word"] for cut in cuts).values()) >= 30
    for cut in cuts:
        assert cut.keys() == {"clip", "word", "start", "end", "character"}
        assert 0 <= cut["start"] < cut["end"] <= cut["start"] + 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_game_s_words_can_be_fetched_and_learnt(tmp_path, monkeypatch):
    """Needs apt-get and dpkg; about a minute."""
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, RECIPE / "prepare.py", "data/amazon_queen_words"], check=True)
    result = train(experiment("amazon_queen_words_quartznet", ["trainer.max_epochs=12", "run.progress=none"]))
    assert result.metrics["valid/accuracy"] > 0.4 and result.metrics["test/accuracy"] > 0.4
    assert result.metrics["test/utterances"] == 553
