"""Prompts get two texts, as written and in plain words, and no text stands in two sets."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from anemone.training.experiment import train
from anemone.training.settings import experiment

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def prepare(prepare_of: Callable[[str], ModuleType]) -> ModuleType:
    return prepare_of("telephone_prompts")


@pytest.mark.parametrize(
    ("lang", "text", "proper", "words"),
    [
        ("en", "Press 1,  then “pound”…", 'Press 1, then "pound"...', "press one then pound"),
        ("en", "If you'd like, dial 500.", "If you'd like, dial 500.", None),
        ("en", "press # to enter", None, None),
        ("es", "Marque 3: está ahí, señor.", "Marque 3: está ahí, señor.", "marque tres esta ahi señor"),
        ("fr", "L\u2019appel, c'est-à-dire 'non'.", "L'appel, c'est-à-dire 'non'.", "l'appel c'est à dire non"),
        ("it", "La conferenza ? piena.", None, None),
        ("it", "non pu? essere", None, None),
        ("it", "In quale cartella?", "In quale cartella?", "in quale cartella"),
        ("ru", "Нажмите «решётку» 2", 'Нажмите "решётку" 2', "нажмите решетку два"),
        ("ru", "Нажмите OK", "Нажмите OK", None),
    ],
)
def test_a_prompt_has_its_text_as_written_and_in_plain_words(prepare, lang, text, proper, words):
    assert prepare.written(text) == proper
    assert (prepare.normalised(proper, lang) if proper else None) == words


def test_single_words_train_and_others_are_shared_out_by_their_text(prepare):
    assert {
        prepare.split_of(word)
        for word in ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    } == {"train"}
    shares = [prepare.split_of(f"press {n}") for n in range(2000)]
    assert [shares.count(split) / 2000 for split in ("train", "dev", "test")] == pytest.approx(
        [0.7, 0.1, 0.2], abs=0.03
    )


def test_manifests_are_written_of_unpacked_packages(prepare, tmp_path):
    sounds = tmp_path / "packages/usr/share/asterisk/sounds/en_US_f_Allison"
    (sounds / "digits").mkdir(parents=True)
    lines = ["; comment", "digits/1: one", "beep: [a beep]", "gone: Gone.", "odd: dial 500"]
    lines += [f"say-{n}: Say it, {'a' * (n // 2 + 1)}" for n in range(40)]
    codes = np.random.default_rng(0).integers(0, 256, 8000, np.uint8).tobytes()
    for line in lines[1:]:
        name = line.partition(":")[0]
        if name != "gone":
            (sounds / f"{name}.g722").write_bytes(codes)
    for package in ("asterisk-core-sounds-en", "asterisk-core-sounds-en-g722"):
        (tmp_path / "packages/usr/share/doc" / package).mkdir(parents=True)
    table = tmp_path / "packages/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    table.write_bytes(gzip.compress("\n".join(lines).encode()))
    counts = prepare.prepare("en", tmp_path / "out", tmp_path / "packages")
    rows = {
        split: list(map(json.loads, (tmp_path / f"out/en/{split}.jsonl").read_text("utf-8").splitlines()))
        for split in ("train", "dev", "test")
    }
    assert {split: len(those) for split, those in rows.items()} == {split: n for split, (n, _) in counts.items()}
    assert sum(map(len, rows.values())) == 41
    assert [sorted({row["prompt"] for row in rows["train"]} & {"digits/1", "odd", "beep", "gone"})] == [["digits/1"]]
    kept = [{row["text"] for row in those} for those in rows.values()]
    assert not kept[0] & kept[1] and not (kept[0] | kept[1]) & kept[2] and all(kept)
    row = rows["test"][0]
    assert row["written"].startswith("Say it, a") and row["text"] == row["written"].lower().replace(",", "")
    assert (row["lang"], row["duration"]) == ("en", pytest.approx(1.0, abs=0.01))
    assert (tmp_path / "out/en" / row["audio_filepath"]).exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_prompts_can_be_fetched_and_a_run_scores_those_held_out(tmp_path, monkeypatch):
    """Needs apt-get and dpkg; some minutes."""
    monkeypatch.chdir(tmp_path)
    script = RECIPES / "telephone_prompts/prepare.py"
    subprocess.run([sys.executable, script, "data/telephone_prompts", "--langs", "en"], check=True)
    result = train(experiment("telephone_prompts_en_fastconformer_ctc", ["trainer.max_epochs=2", "run.progress=none"]))
    assert result.metrics["test/utterances"] == 51 and 0 < result.metrics["test/cer"] <= 1
