"""Make manifests of recorded noise and of impulse responses, for the steps `noise` and `room` of a recipe.

    python recipes/noises_and_rooms/prepare.py OUT

Fetches four sets by the names of their Debian packages (needs `apt-get` and `dpkg`; 195 MB), unpacks them below
OUT/packages, and writes OUT/noises_train.jsonl, OUT/noises_test.jsonl and OUT/rooms.jsonl. Recordings stay as they
are. Licences and caveats: README.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import soundfile

ROOMS = {
    "guitarix-common": "usr/share/gx_head/sounds/greathall.wav",
    "jconvolver-config-files": "usr/share/jconvolver/config-files/demo-reverbs/*.wav",
    "python3-pyo": "usr/lib/python3/dist-packages/pyo/lib/snds/IRMediumHallStereo.wav",
}
NOISES = {
    "tuxpaint-stamps-default": "usr/share/tuxpaint/stamps/**/*.[ow][ga][gv]",
    "bucklespring-data": "usr/share/buckle/wav/*.wav",
}
SPOKEN = "_desc", "symbols"  # in the names of recordings that say what a stamp shows, and of folders of letters
SHORTEST = 0.1  # seconds of noise
TEST = 4  # one noise in so many is held out


def fetch(package: str, folder: Path) -> Path:
    """The folder of an unpacked package; downloads it unless it is there."""
    home = folder / package
    if not home.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", archive.name, package], cwd=folder, check=True)
        archive.unlink()
    return home


def rows(package: str, home: Path, pattern: str, *, noise: bool) -> list[dict[str, Any]]:
    """A row for each recording of a package that a pattern names, and for each channel of a room's response."""
    found = []
    for path in sorted(home.glob(pattern)):
        if SPOKEN[0] in path.stem or SPOKEN[1] in path.parts or path.is_symlink():
            continue
        try:
            info = soundfile.info(path)
        except soundfile.LibsndfileError as error:
            print(f"left out {path}: {error}", file=sys.stderr)
            continue
        if noise and info.duration < SHORTEST:
            continue
        for channel in range(1 if noise else info.channels):
            name = f"{package}/{path.stem}" + ("" if noise or info.channels == 1 else f"/{channel}")
            row = {"id": name, "audio_filepath": str(path), "duration": info.duration, "label": path.stem}
            found.append(row if noise else row | {"channel": channel})
    return found


def write(path: Path, found: list[dict[str, Any]]) -> None:
    """Write a manifest whose paths are relative to it."""
    lines = [
        json.dumps(row | {"audio_filepath": str(Path(row["audio_filepath"]).relative_to(path.parent))}) for row in found
    ]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def prepare(out: Path) -> dict[str, int]:
    """Write the manifests below `out`; return the number of rows in each."""
    packages = out / "packages"
    noises = [r for name, pattern in NOISES.items() for r in rows(name, fetch(name, packages), pattern, noise=True)]
    rooms = [r for name, pattern in ROOMS.items() for r in rows(name, fetch(name, packages), pattern, noise=False)]
    sets = {
        "noises_train": [row for i, row in enumerate(noises) if i % TEST],
        "noises_test": noises[::TEST],
        "rooms": rooms,
    }
    for name, found in sets.items():
        write(out / f"{name}.jsonl", found)
    return {name: len(found) for name, found in sets.items()}


def main() -> None:
    """Parse the command line and prepare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for packages and manifests")
    print(prepare(parser.parse_args().out))


if __name__ == "__main__":
    main()
