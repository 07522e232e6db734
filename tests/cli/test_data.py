"""`data` has verbs of its own; `data speech-commands` writes manifests of the folder layout."""

import json
from pathlib import Path

import pytest
import soundfile
import yaml

from anemone.testing import speech

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "bed")


@pytest.fixture
def folder(tmp_path):
    """Google's layout, small: eleven words of four speakers, two of them held out, and a hum."""
    folder = tmp_path / "speech_commands"
    for word in WORDS:
        (folder / word).mkdir(parents=True)
        for number in range(4):
            soundfile.write(folder / word / f"speaker{number}_nohash_0.wav", speech(1.0, seed=number), 16_000)
    (folder / "_background_noise_").mkdir()
    soundfile.write(folder / "_background_noise_/hum.wav", speech(3.0), 16_000)
    for number, name in ((2, "validation_list.txt"), (3, "testing_list.txt")):
        lines = [f"{word}/speaker{number}_nohash_0.wav\n" for word in WORDS]
        (folder / name).write_text("".join(lines))
    return folder


def test_manifests_of_a_folder_are_written(anemone, folder, tmp_path):
    ran = anemone("data", "speech-commands", folder, tmp_path / "out")
    assert ran.status == 0, ran.err
    written = [line.partition(": ")[2] for line in ran.out.splitlines()]
    rows = [[json.loads(line) for line in Path(path).read_text().splitlines()] for path in written]
    assert sorted(len(part) for part in rows) == [11, 11, 22]


@pytest.mark.parametrize(("net", "classes"), [("matchboxnet", "all"), ("quartznet", "12")])
def test_the_experiments_train_on_what_is_written(anemone, folder, tmp_path, net, classes):
    assert anemone("data", "speech-commands", folder, f"--classes={classes}").status == 0
    ran = anemone("train", f"speech_commands_{net}", "trainer.max_steps=2", "trainer.accelerator=cpu")
    assert ran.status == 0 and "test/accuracy" in ran.out, ran.err
    run = tmp_path / f"runs/speech_commands_{net}"
    labels = set(yaml.safe_load((run / "config.yaml").read_text())["task"]["labels"])
    assert labels == ({*WORDS} if classes == "all" else {*WORDS[:10], "_unknown_", "_silence_"})
    ran = anemone("classify", run / "model.anemone", folder / "yes/speaker3_nohash_0.wav")
    assert ran.status == 0 and ran.out.split("\t")[1] in labels


def test_a_missing_folder_is_named(anemone, tmp_path):
    ran = anemone("data", "speech-commands", tmp_path / "nowhere", tmp_path / "out")
    assert ran.status == 2 and "nowhere" in ran.err and ran.err.count("\n") == 1


def test_verbs_are_listed_and_an_unknown_one_is_named(anemone):
    ran = anemone("data", "--help")
    assert ran.status == 0 and "convert " in ran.out and "speech-commands " in ran.out
    ran = anemone("data", "covert", "a", "--b")
    assert ran.status == 2
    assert "`covert` is not a verb of `anemone data`. Did you mean `convert`? There are: convert, " in ran.err
    assert anemone("data").status == 2
