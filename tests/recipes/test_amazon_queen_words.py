"""The list of cuts of the game's words keeps to what README.md says of it, and the words can be learnt."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from anemone.training.experiment import train
from anemone.training.settings import experiment

RECIPE = Path(__file__).parents[2] / "recipes/amazon_queen_words"


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
