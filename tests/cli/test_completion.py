"""Completion: what the last word can become; and that bash really puts it there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anemone.cli import VERBS, data
from anemone.cli.completion import SCRIPTS, candidates, settings
from anemone.config import encode, experiments
from anemone.training.run import flatten
from anemone.training.settings import experiment

FREE = "run.init", "task.prompt.slots"  # below them stand names of one's own


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([""], [*VERBS, "--help", "--version"]),
        (["tra"], ["train", "transcribe"]),
        (["train", "telephone_words_q"], ["telephone_words_quartznet"]),
        (["train", ""], experiments()),
        (["train", "telephone_words_quartznet", "--mul"], ["--multirun"]),
        (["train", "--multirun", "telephone_words_q"], ["telephone_words_quartznet"]),
        (["train", "telephone_words_quartznet", "pre"], ["precision="]),
        (["train", "telephone_words_quartznet", "precision=b"], ["precision=bf16-mixed", "precision=bf16-true"]),
        (["train", "telephone_words_quartznet", "optim"], ["optim.", "optim="]),
        (["train", "telephone_words_quartznet", "optim.w"], ["optim.weight_decay="]),
        (["train", "telephone_words_quartznet", "optim=muon", "optim.m"], ["optim.momentum="]),
        (["train", "telephone_words_quartznet", "optim=mu"], ["optim=muon"]),
        (["train", "telephone_words_quartznet", "optim.kind=mu"], ["optim.kind=muon"]),
        (["train", "telephone_words_quartznet", "data.augment.0.sp"], ["data.augment.0.speed."]),
        (["train", "telephone_words_quartznet", "data.skip_bad="], ["data.skip_bad=true", "data.skip_bad=false"]),
        (["train", "telephone_words_quartznet", "data.train="], []),
        (["data", ""], [*data.VERBS]),
        (["data", "co"], ["convert"]),
        (["data", "--h"], ["--help"]),
        (["data", "speech-commands", "in", "out", "--classes", ""], ["all", "12"]),
        (["data", "speech-commands", "in", "out", ""], []),
        (["completion", "z"], ["zsh"]),
        (["classify", "model", "rec"], []),
        (["nothing", ""], []),
    ],
)  # fmt: skip
def test_candidates(words, found):
    assert candidates(words) == found


def test_every_setting_of_every_experiment_is_completed():
    for name in experiments():
        known = settings(name)
        for key in flatten(encode(experiment(name, []))):
            key = next((free for free in FREE if key.startswith(f"{free}.")), key)
            assert any(f"{setting}.".startswith(f"{key}.") for setting in known), (name, key)


def test_settings_are_kept_until_something_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path))
    mine = tmp_path / "mine.yaml"
    mine.write_text("defaults: [/experiment/telephone_words_quartznet, _self_]\n")
    first = settings(str(mine))
    (kept,) = (tmp_path / "completion").iterdir()
    kept.write_text(json.dumps({"marker": []}))
    assert settings(str(mine)) == {"marker": []}
    os.utime(mine, (1, 1))
    assert settings(str(mine)) == first


BASH = """
source <({python} -m anemone completion bash)
anemone() {{ {python} -m anemone "$@"; }}
COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=($COMP_LINE); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_anemone 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("anemone tr", ["train", "transcribe"]),
        ("anemone completion ", ["bash", "zsh", "fish"]),
        ("anemone config telephone_words_quartznet optim=mu", ["muon"]),  # bash cuts words at =
        ("anemone config telephone_words_quartznet optim.l", ["optim.lr="]),
        ("anemone classify model.anemone ", [""]),  # bash offers files
    ],
)
def test_bash_completes(line, found):
    script = BASH.format(python=sys.executable, line=line)
    ran = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == found


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_scripts_ask_us_and_offer_files_otherwise(anemone, shell):
    ran = anemone("completion", shell)
    assert ran.status == 0 and " complete " in ran.out
    assert {"bash": "-o default", "zsh": "_files", "fish": "__fish_complete_path"}[shell] in ran.out


def test_a_wrong_shell_is_refused(anemone):
    ran = anemone("completion", "tcsh")
    assert ran.status == 2 and "invalid choice: 'tcsh'" in ran.err


def test_completion_of_verbs_loads_nothing_heavy():
    words = ["complete", "train", "telephone_words_q"]
    code = f"import sys; from anemone.cli import main; main({words}); print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert ran.stdout.split() == ["telephone_words_quartznet", "False"]
