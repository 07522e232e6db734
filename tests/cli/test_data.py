"""`data speech-commands` writes manifests of the folder layout."""

import json
from pathlib import Path

import soundfile

from anemone.testing import speech


def test_manifests_of_a_folder_are_written(anemone, tmp_path):
    folder = tmp_path / "speech_commands"
    for word in ("yes", "no"):
        (folder / word).mkdir(parents=True)
        for number in range(4):
            soundfile.write(folder / word / f"speaker{number}_nohash_0.wav", speech(1.0, seed=number), 16_000)
    (folder / "_background_noise_").mkdir()
    soundfile.write(folder / "_background_noise_/hum.wav", speech(3.0), 16_000)
    (folder / "validation_list.txt").write_text("yes/speaker2_nohash_0.wav\nno/speaker2_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("yes/speaker3_nohash_0.wav\nno/speaker3_nohash_0.wav\n")
    ran = anemone("data", "speech-commands", folder, tmp_path / "out")
    assert ran.status == 0, ran.err
    written = [line.partition(": ")[2] for line in ran.out.splitlines()]
    rows = [[json.loads(line) for line in Path(path).read_text().splitlines()] for path in written]
    assert sorted(len(part) for part in rows) == [2, 2, 4]


def test_a_missing_folder_is_named(anemone, tmp_path):
    ran = anemone("data", "speech-commands", tmp_path / "nowhere", tmp_path / "out")
    assert ran.status == 2 and "nowhere" in ran.err and ran.err.count("\n") == 1
