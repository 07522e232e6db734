"""Make `amazon_queen_words`: words said by the characters of the game Flight of the Amazon Queen.

    python recipes/amazon_queen_words/prepare.py OUT

Fetches the game by the name of its Debian package (needs `apt-get` and `dpkg`), cuts the takes listed in `cuts.jsonl`
out of its spoken lines, and writes OUT/audio/WORD/*.flac and the manifests train.jsonl, dev.jsonl and test.jsonl.
Whole characters are held out. Licence and caveats: README.md; never sell or commit what this script writes.
"""

import argparse
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import soundfile
from talkie import clips

sys.path.insert(0, str(Path(__file__).parents[1]))
from spoken_words import faded

HERE = Path(__file__).parent
PACKAGE = "flight-of-the-amazon-queen"
HELD_OUT = {"dev": {"FAYE", "ORACLE", "SEC"}, "test": {"APE", "BOB", "CHIEF", "KLUNK", "TAM", "WITCH"}}


def fetch(cache: Path) -> Path:
    """The game's data file; downloads and unpacks the package unless it is in `cache`."""
    data = cache / "usr/share/scummvm" / PACKAGE / "queen.1c"
    if not data.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", PACKAGE], cwd=cache, check=True)
        (archive,) = cache.glob(f"{PACKAGE}_*.deb")
        subprocess.run(["dpkg", "-x", archive.name, "."], cwd=cache, check=True)
        archive.unlink()
    return data


def split_of(character: str) -> str:
    """`test` or `dev` for the characters held out, `train` for all others."""
    return next((split for split, those in HELD_OUT.items() if character in those), "train")


def prepare(out: Path, cache: Path) -> dict[str, int]:
    """Write audio and manifests below `out`; return the number of takes in each split."""
    lines = {clip.name: clip for clip in clips(fetch(cache))}
    rows: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for cut in map(json.loads, (HERE / "cuts.jsonl").read_text("utf-8").splitlines()):
        samples, rate = soundfile.read(BytesIO(lines[cut["clip"]].audio), dtype="float32")
        take = faded(samples, cut["start"], cut["end"], rate)
        path = Path("audio") / cut["word"] / f"{cut['clip']}_{round(1000 * cut['start'])}.flac"
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(out / path, take, rate)
        row = {
            "audio_filepath": str(path),
            "duration": len(take) / rate,
            "label": cut["word"],
            "speaker": cut["character"],
            "clip": cut["clip"],
        }
        rows[split_of(cut["character"])].append(json.dumps(row))
    for split, text in rows.items():
        (out / f"{split}.jsonl").write_text("\n".join(text) + "\n", encoding="utf-8")
    return {split: len(text) for split, text in rows.items()}


def main() -> None:
    """Parse the command line and prepare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for audio and manifests")
    parser.add_argument("--cache", type=Path, help="folder for the unpacked package (OUT/package)")
    args = parser.parse_args()
    print(prepare(args.out, args.cache or args.out / "package"))


if __name__ == "__main__":
    main()
