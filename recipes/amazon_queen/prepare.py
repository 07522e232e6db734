"""Make `amazon_queen`: the spoken lines of the game Flight of the Amazon Queen, with their texts.

    python recipes/amazon_queen/prepare.py OUT

Fetches the game by the name of its Debian package (needs `apt-get` and `dpkg`), and writes OUT/audio/*.flac at 16 kHz
and the manifests train.jsonl, dev.jsonl and test.jsonl. Whole characters are held out. Licence and caveats: README.md;
never sell or commit what this script writes.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from talkie import Clip, clips, fetch, split_of

RATE = 16_000
LONGEST_S = 10.0
SECONDS_A_LETTER = 0.03, 0.6  # outside of them a clip holds more, or less, than its text
ANIMALS = {"APE", "DOG"}  # they grunt and bark
SOUNDS = re.compile(  # of a line that is no speech
    r"(\b(aark|ah|ahem|aroof|atchoo|bah|eek|eee?p|ha|heh?|ho|haa*r|hup|koff|nyaa?h|oh|oo[hpt]|ouch|ow|ptooie"
    r"|squaa?r?k|sq[uw]?awk|uck|uh|umm?|ungha?|unga|waa?rr?k|woof|yikes|yow)\b| )+"
)
LETTERS = re.compile(r"[a-z' ]+")


def normalised(text: str) -> str | None:
    """The words of a line in lower case, with apostrophes; None for one that words do not render.

    Those are lines with figures, stage directions or signs, and lines of sounds alone. Letters drawn out (`Hmmm`) are
    written twice, and abbreviations (`D.N.A.`) letter by letter.
    """
    text = re.sub(r"\b([A-Z])\.", r"\1 ", text).lower()
    text = re.sub(r"(?<![a-z])'|'(?![a-z])", " ", re.sub(r'[".,!?;:-]', " ", text))
    text = " ".join(re.sub(r"([a-z])\1{2,}", r"\1\1", text).split())
    return text if LETTERS.fullmatch(text) and not SOUNDS.fullmatch(text) else None


def usable(found: Iterator[Clip]) -> Iterator[tuple[Clip, str]]:
    """Yield the lines of people with a name that words render, and these words."""
    for clip in found:
        text = normalised(clip.text)
        if text and clip.character and clip.character not in ANIMALS:
            yield clip, text


def prepare(out: Path, cache: Path) -> dict[str, tuple[int, float]]:
    """Write audio and manifests below `out`; return the number of lines and the minutes of each split."""
    (out / "audio").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "test": []}
    for clip, text in usable(clips(fetch(cache))):
        samples, rate = soundfile.read(BytesIO(clip.audio), dtype="float32")
        seconds, (least, most) = len(samples) / rate, SECONDS_A_LETTER
        if not least * len(text) < seconds < min(LONGEST_S, 1 + most * len(text)):
            continue
        wave = np.clip(soxr.resample(samples, rate, RATE), -1, 1)
        path = Path("audio") / f"{clip.name}.flac"
        soundfile.write(out / path, wave, RATE)
        row = {"audio_filepath": str(path), "duration": len(wave) / RATE, "text": text, "speaker": clip.character}
        rows[split_of(clip.character)].append(row | {"written": clip.text, "source": clip.source})
    trained = {row["text"] for row in rows["train"]}
    for split, those in rows.items():
        known = [row | {"text_in_train": row["text"] in trained} for row in those] if split != "train" else those
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in known)
        (out / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        print(split, Counter(row["speaker"] for row in those).most_common())
    return {split: (len(those), round(sum(row["duration"] for row in those) / 60, 1)) for split, those in rows.items()}


def main() -> None:
    """Parse the command line and prepare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for audio and manifests")
    parser.add_argument("--cache", type=Path, help="folder for the unpacked package (OUT/package)")
    args = parser.parse_args()
    print(prepare(args.out, args.cache or args.out / "package"))


if __name__ == "__main__":
    main()
