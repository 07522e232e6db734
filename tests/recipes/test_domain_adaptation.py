"""A recogniser learns a new domain, and the table says so of both."""

import runpy
import sys
from pathlib import Path

import pytest

import anemone

RECIPE = Path(__file__).parents[2] / "recipes/domain_adaptation.py"
PROMPTS = Path(anemone.__file__).parent / "assets/telephone_prompts"


@pytest.mark.parametrize("settings", [[], ["adapt={name: mine, lora: {targets: [encoder, head], rank: 8}}"]])
def test_both_domains_are_measured_before_and_after(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for lang, split, count in (("en", "test", 3), ("it", "test", 4)):
        folder = PROMPTS / lang
        lines = [line for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines() if line.isascii()][:count]
        moved = [line.replace('"audio_filepath": "', f'"audio_filepath": "{folder}/') for line in lines]
        Path(f"{lang}.jsonl").write_text("".join(line + "\n" for line in moved), "utf-8")
    words = ["trainer.max_steps=8", "optim.lr=0.003", "run.progress=none", *settings]
    files = ["--train", "it.jsonl", "--old", "en.jsonl", "--new", "it.jsonl"]
    monkeypatch.setattr(sys, "argv", [str(RECIPE), "telephone-prompts-en", "run", *words, *files])
    runpy.run_path(str(RECIPE), run_name="__main__")
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    found = {(row[0], row[1]): row[2:] for row in rows[1:]}
    assert set(found) == {(domain, metric) for domain in ("old", "new") for metric in ("wer", "cer", "loss")}
    assert " to " in found["new", "wer"][0] and " to " not in found["new", "loss"][0]
    before, after = (float(cell.split()[0]) for cell in found["new", "loss"][:2])
    assert after < before
