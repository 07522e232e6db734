"""Zhuyin becomes toned pinyin, and the speaker held out is heard by syllables alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from anemone.training.experiment import train
from anemone.training.settings import experiment

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def prepare(prepare_of: Callable[[str], ModuleType]) -> ModuleType:
    return prepare_of("mandarin_syllables")


@pytest.mark.parametrize(
    ("zhuyin", "pinyin"),
    [
        ("ㄇㄚ3", "ma3"),
        ("ㄇㄚ", "ma1"),
        ("ㄇㄚ1", "ma5"),
        ("ㄓ4", "zhi4"),
        ("ㄦ2", "er2"),
        ("ㄧ2", "yi2"),
        ("ㄐㄩ", "ju1"),
        ("ㄌㄩ4", "lü4"),
        ("ㄒㄩㄥ2", "xiong2"),
        ("ㄩㄢ2", "yuan2"),
        ("ㄍㄨㄟ4", "gui4"),
        ("ㄨㄥ", "weng1"),
        ("ㄏㄨㄥ2", "hong2"),
        ("ㄐㄧㄡ3", "jiu3"),
        ("ㄝ4", "ê4"),
        ("ㄅ", None),
    ],
)
def test_zhuyin_is_written_in_pinyin_with_its_tone(prepare, zhuyin, pinyin):
    assert prepare.pinyin(zhuyin) == pinyin


def test_one_speaker_trains_alone_and_in_rows_and_the_other_is_held_out(prepare, tmp_path):
    folder = tmp_path / "package/usr/share/gcin-voice/ogg"
    for number, name in enumerate("ㄇㄚ ㄇㄚ2 ㄇㄚ3 ㄇㄚ4 ㄅㄚ ㄅㄚ2 ㄅㄚ3 ㄅㄚ4 ㄆㄚ ㄆㄚ2 ㄆㄚ4 ㄊㄚ".split()):  # noqa: SIM905
        (folder / name).mkdir(parents=True)
        wave = np.sin(np.arange(4410 + 441 * number) / 9)
        for speaker in ("3", "5"):
            soundfile.write(folder / name / f"{speaker}.ogg", 0.3 * wave, 44_100)
    (tmp_path / "package/usr/share/doc/gcin-voice").mkdir(parents=True)
    counts = prepare.prepare(tmp_path / "out", tmp_path / "package")
    sets = {
        split: list(map(json.loads, (tmp_path / f"out/{split}.jsonl").read_text("utf-8").splitlines()))
        for split in ("train", "dev", "test")
    }
    assert {split: len(rows) for split, rows in sets.items()} == counts
    assert {row["speaker"] for row in sets["train"]} == {"3"}
    held_out = [row["text"] for split in ("dev", "test") for row in sets[split]]
    assert sorted(held_out) == sorted(row["text"] for row in sets["train"] if " " not in row["text"])
    rows = [row for row in sets["train"] if " " in row["text"]]
    assert rows and all(2 <= len(row["text"].split()) <= 5 for row in rows)
    alone = {row["text"]: row["duration"] for row in sets["train"] if " " not in row["text"]}
    for row in rows:
        names = row["text"].split()
        assert row["duration"] == pytest.approx(sum(alone[name] for name in names) + 0.05 * (len(names) - 1), abs=1e-3)
        assert soundfile.info(tmp_path / "out" / row["audio_filepath"]).duration == pytest.approx(row["duration"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore:rows .* have fewer frames:UserWarning")  # long syllables, sped up
def test_syllables_can_be_fetched_and_a_run_scores_the_speaker_held_out(tmp_path, monkeypatch):
    """Needs apt-get and dpkg; some minutes."""
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, RECIPES / "mandarin_syllables/prepare.py", "data/mandarin_syllables"], check=True)
    settings = ["trainer.max_epochs=2", "run.progress=none"]
    result = train(experiment("mandarin_syllables_fastconformer_ctc", settings))
    assert result.metrics["test/utterances"] == 1042 and result.metrics["test/cer"] < 1
