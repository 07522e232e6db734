"""Make `amazon_queen_words`: words said by the characters of the game Flight of the Amazon Queen.

    python recipes/amazon_queen_words/prepare.py OUT

Fetches the game by the name of its Debian package (needs `apt-get` and `dpkg`), cuts the takes listed in `cuts.jsonl`
out of its spoken lines, and writes OUT/audio/WORD/*.flac and the manifests train.jsonl, dev.jsonl and test.jsonl.
Whole characters are held out. Licence and caveats: README.md; never sell or commit what this script writes.
"""

import argparse
import json
import sys
from io import BytesIO
from pathlib import Path

import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "amazon_queen"))
from spoken_words import faded
from talkie import clips, fetch, split_of

HERE = Path(__file__).parent


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
