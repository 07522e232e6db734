"""Manifests of noises and rooms are made of made-up packages, and steps of a recipe read them."""

import importlib.util
from pathlib import Path

import numpy as np
import soundfile

from anemone.data.augmentation import Recipe, augment

SCRIPT = Path(__file__).parents[2] / "recipes/noises_and_rooms/prepare.py"
spec = importlib.util.spec_from_file_location("noises_and_rooms", SCRIPT)
assert spec and spec.loader
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)

FILES = {
    "tuxpaint-stamps-default": [
        "stamps/animals/dog.ogg",
        "stamps/animals/dog_desc.ogg",
        "stamps/vehicles/van.wav",
        "stamps/symbols/a.ogg",
    ],
    "bucklespring-data": [f"{i:02}-0.wav" for i in range(6)],
    "guitarix-common": ["greathall.wav"],
    "jconvolver-config-files": ["street2-L.wav", "street2-R.wav"],
    "python3-pyo": ["IRMediumHallStereo.wav"],
}


def packages(folder: Path) -> None:
    """Unpacked packages, of noise."""
    rng = np.random.default_rng(0)
    for package, names in FILES.items():
        pattern = (prepare.ROOMS | prepare.NOISES)[package]
        home = folder / package / pattern.partition("/stamps")[0] if "stamps" in pattern else folder / package / pattern
        for name in names:
            path = home / name if "stamps" in pattern else home.parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            channels = 2 if package in {"guitarix-common", "python3-pyo"} else 1
            soundfile.write(path, rng.uniform(-0.3, 0.3, (4000, channels)), 8000)
    (folder / "bucklespring-data/usr/share/buckle/wav/broken.wav").write_bytes(b"no audio")


def test_manifests_of_noises_and_rooms(tmp_path, capsys):
    packages(tmp_path / "packages")
    assert prepare.prepare(tmp_path) == {"noises_train": 6, "noises_test": 2, "rooms": 6}
    assert "left out" in capsys.readouterr().err
    recipe = Recipe.parse(
        [
            {"noise": {"manifest": str(tmp_path / "noises_train.jsonl"), "p": 1}},
            {"room": {"manifest": str(tmp_path / "rooms.jsonl"), "p": 1}},
        ]
    ).opened(16_000)
    speech = np.random.default_rng(1).uniform(-0.1, 0.1, 8000).astype(np.float32)
    drawn = [augment(speech, 16_000, recipe, seed=0, id="a", copy=k).drawn for k in range(60)]
    assert {d["noise"]["noise"] for d in drawn} > {"tuxpaint-stamps-default/dog", "tuxpaint-stamps-default/van"} - {
        row for row in (tmp_path / "noises_test.jsonl").read_text().split('"') if "/" in row
    }
    assert not any("_desc" in d["noise"]["noise"] for d in drawn)
    assert {d["room"]["room"] for d in drawn} == {
        "guitarix-common/greathall/0",
        "guitarix-common/greathall/1",
        "jconvolver-config-files/street2-L",
        "jconvolver-config-files/street2-R",
        "python3-pyo/IRMediumHallStereo/0",
        "python3-pyo/IRMediumHallStereo/1",
    }
