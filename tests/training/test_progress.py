"""Progress shows loss, rate, data time and audio-seconds a second, in a terminal and outside of one."""

import io
import logging
import re

import pytest
from rich.console import Console

from anemone.training import launch
from anemone.training.experiment import train
from anemone.training.progress import narration

NUMBERS = r"12/12  epoch 2  loss \d\.\d{4}  lr \d\.\de-\d\d  data \d+%  \d+ audio seconds/s"


@pytest.fixture
def shown(experiment, monkeypatch):
    """What a run shows on a console."""

    def shown(kind, **console):
        out = io.StringIO()
        monkeypatch.setattr(launch, "PipeConsole", lambda: Console(file=out, **console))
        train(experiment(run__progress=kind))
        return out.getvalue()

    return shown


def test_a_terminal_shows_a_bar(shown):
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown("auto", force_terminal=True, width=120))
    assert re.search(NUMBERS, text) and "━" in text


def test_elsewhere_there_are_lines_without_control_codes(shown):
    text = shown("auto", force_terminal=False, width=40)
    assert re.search("^step " + NUMBERS + "$", text, re.MULTILINE)
    assert "\x1b" not in text and "\r" not in text and "━" not in text


def test_silence_is_kept(shown):
    assert "audio seconds/s" not in shown("none", force_terminal=True, width=120)


def test_what_is_said_is_printed_as_it_is(tmp_path):
    out = io.StringIO()
    with narration(tmp_path, Console(file=out, force_terminal=True, width=40)):
        logging.getLogger("anemone.data").info("data/[red]/train.jsonl:100: no such file, :smile: [/]")
    assert "data/[red]/train.jsonl:100: no such file, :smile: [/]\n" in out.getvalue()
