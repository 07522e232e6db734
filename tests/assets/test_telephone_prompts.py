"""The shipped recogniser understands held-out prompts as well as its card says, and its slice of data is in order."""

import json
from pathlib import Path

import pytest

import anemone
from anemone.checkpoint.archive import read_archive
from anemone.checkpoint.card import front_matter
from anemone.data.manifest import Index
from anemone.metrics.wer import Edits, word_edits

FOLDER = Path(anemone.__file__).parent / "assets" / "telephone_prompts"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_text("utf-8").splitlines()]


@pytest.mark.parametrize(("name", "count"), [("en/test.jsonl", 24), ("it/train.jsonl", 60), ("it/test.jsonl", 16)])
def test_a_slice_is_whole(name, count):
    index = Index.read([FOLDER / name], target="text")
    assert len(index) == count and not index.problems
    assert all(Path(index.row(i).audio).exists() for i in range(count))


def test_no_italian_text_stands_in_both_sets():
    assert not {row["text"] for row in rows("it/train.jsonl")} & {row["text"] for row in rows("it/test.jsonl")}


def test_the_shipped_recogniser_writes_held_out_prompts():
    task = anemone.load("telephone-prompts-en")
    test = rows("en/test.jsonl")
    said = [t.text for t in task.transcribe([FOLDER / "en" / row["audio_filepath"] for row in test])]
    texts = {row["prompt"]: text for row, text in zip(test, said, strict=True)}
    assert texts["conf-lockednow"] == "the conference is now locked"
    card = read_archive(FOLDER.parent / "models/telephone-prompts-en.anemone").card
    scores = front_matter(card)["model-index"][0]["results"][0]["metrics"]
    promised = next(score["value"] for score in scores if score["type"] == "wer")
    assert Edits.of(word_edits(said, [row["text"] for row in test])).rate == pytest.approx(promised, abs=0.1)
