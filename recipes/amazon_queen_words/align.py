"""Find the words of `amazon_queen_words`: writes the list `cuts.jsonl` that `prepare.py` reads.

    pip install -r requirements.txt
    python align.py --cache DIR

Dates and cuts the words with `spoken_words.py` (Whisper: an hour on two cores; kept in DIR) and keeps those that have
30 takes or more, some of them by the characters held out for dev and test.
"""

import argparse
import json
from collections import Counter
from functools import partial
from io import BytesIO
from pathlib import Path

import soundfile
import soxr
from prepare import HERE
from spoken_words import RATE, Wave, recognise_all, spans, tokens
from talkie import Clip, clips, fetch, split_of

WORDS = (
    "again back better find get give go good got hello help here hi joe jungle just king like little look maybe "
    "more need nice no now okay one only out really rocket say see skull sorry thanks think time very want way well "
    "yeah yes"
)
SAME = {"ok": "okay", "jo": "joe", "1": "one"}
MIN_TAKES = {"all": 30, "train": 15, "test": 2}


def sound(token: str) -> str:
    """A word as text and recogniser are compared."""
    return SAME.get(token, token)


def load(name: str, known: dict[str, Clip]) -> Wave:
    """The samples of a clip at 16 kHz."""
    samples, rate = soundfile.read(BytesIO(known[name].audio), dtype="float32")
    wave: Wave = soxr.resample(samples, rate, RATE)
    return wave


def main() -> None:
    """Write `cuts.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the game, the recogniser and word times")
    cache = parser.parse_args().cache
    known = {clip.name: clip for clip in clips(fetch(cache)) if clip.source.endswith(".DOG")}
    spoken = {name: [sound(token) for token in tokens(clip.text)] for name, clip in known.items()}
    wanted_words = set(WORDS.split())
    wanted = [name for name, words in spoken.items() if wanted_words & set(words)]
    heard = recognise_all(wanted, partial(load, known=known), "en", cache / "words.jsonl")
    rows = [
        {"clip": name, "word": spoken[name][index], "start": start, "end": end, "character": known[name].character}
        for name in wanted
        for index, (start, end) in spans(load(name, known), spoken[name], heard[name], sound)
        if spoken[name][index] in wanted_words
    ]
    count = Counter((row["word"], part) for row in rows for part in ("all", split_of(row["character"])))
    kept = {word for word in wanted_words if all(count[word, part] >= least for part, least in MIN_TAKES.items())}
    print(f"{len(kept)} words; left out:", {word: count[word, "all"] for word in sorted(wanted_words - kept)})
    text = "".join(json.dumps(row) + "\n" for row in rows if row["word"] in kept)
    (HERE / "cuts.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
