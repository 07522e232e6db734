"""Make `mandarin_syllables`: the syllables of Mandarin, each with its tone, by two speakers.

    python recipes/mandarin_syllables/prepare.py OUT

Fetches the recordings by the name of their Debian package (`gcin-voice`; needs `apt-get` and `dpkg`) and writes
OUT/audio/SPEAKER/*.flac at 16 kHz and the manifests train.jsonl (speaker 3: each syllable by itself, then in rows of
two to five), dev.jsonl and test.jsonl (speaker 5, by itself). Licences and caveats: README.md.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parents[1]))
from debian import unpack
from spoken_words import RATE, Wave

TRAIN, HELD_OUT = "3", "5"  # speakers, as the package calls them
DEV = 10  # one syllable in so many of the held-out speaker is for looking at while training
ROUNDS = 3  # rows that each training syllable is in
GAP_S = 0.05  # silence between the syllables of a row
INITIALS = dict(
    zip(
        "ㄅㄆㄇㄈㄉㄊㄋㄌㄍㄎㄏㄐㄑㄒㄓㄔㄕㄖㄗㄘㄙ",
        ["b", "p", "m", "f", "d", "t", "n", "l", "g", "k", "h", "j", "q", "x", "zh", "ch", "sh", "r", "z", "c", "s"],
        strict=True,
    )
)
FINALS = dict(
    zip(
        "ㄚㄛㄜㄝㄞㄟㄠㄡㄢㄣㄤㄥㄦ",
        ["a", "o", "e", "ê", "ai", "ei", "ao", "ou", "an", "en", "ang", "eng", "er"],
        strict=True,
    )
)
GLIDED = {  # after an initial, and at the beginning
    "ㄧ": ("i", "yi"),
    "ㄧㄚ": ("ia", "ya"),
    "ㄧㄛ": ("io", "yo"),
    "ㄧㄝ": ("ie", "ye"),
    "ㄧㄞ": ("iai", "yai"),
    "ㄧㄠ": ("iao", "yao"),
    "ㄧㄡ": ("iu", "you"),
    "ㄧㄢ": ("ian", "yan"),
    "ㄧㄣ": ("in", "yin"),
    "ㄧㄤ": ("iang", "yang"),
    "ㄧㄥ": ("ing", "ying"),
    "ㄨ": ("u", "wu"),
    "ㄨㄚ": ("ua", "wa"),
    "ㄨㄛ": ("uo", "wo"),
    "ㄨㄞ": ("uai", "wai"),
    "ㄨㄟ": ("ui", "wei"),
    "ㄨㄢ": ("uan", "wan"),
    "ㄨㄣ": ("un", "wen"),
    "ㄨㄤ": ("uang", "wang"),
    "ㄨㄥ": ("ong", "weng"),
    "ㄩ": ("ü", "yu"),
    "ㄩㄝ": ("üe", "yue"),
    "ㄩㄢ": ("üan", "yuan"),
    "ㄩㄣ": ("ün", "yun"),
    "ㄩㄥ": ("iong", "yong"),
}
BUZZING = "ㄓㄔㄕㄖㄗㄘㄙ"  # initials that are syllables by themselves


def pinyin(zhuyin: str) -> str | None:
    """A syllable in pinyin with the figure of its tone, such as `ma3`; None for the name of a consonant.

    No figure behind the zhuyin means the first tone, 1 the neutral tone, which pinyin writes as 5.
    """
    sounds = zhuyin.rstrip("1234")
    tone = {"": "1", "1": "5"}.get(zhuyin[len(sounds) :], zhuyin[len(sounds) :])
    first = INITIALS.get(sounds[0], "")
    rest = sounds[1:] if first else sounds
    if not rest:
        return f"{first}i{tone}" if sounds in BUZZING else None
    if rest in FINALS:
        return first + FINALS[rest] + tone
    final = GLIDED[rest][0 if first else 1]
    return first + (final.replace("ü", "u") if first in ("j", "q", "x") else final) + tone


def row(path: Path, out: Path, wave: Wave, text: str, speaker: str) -> dict[str, Any]:
    """Write a recording; return its line of the manifest."""
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(out / path, wave, RATE)
    return {"audio_filepath": str(path), "duration": len(wave) / RATE, "text": text, "speaker": speaker}


def joined(syllables: dict[str, Wave], rng: random.Random) -> list[tuple[str, Wave]]:
    """Rows of two to five syllables in random order, a little silence between them; hardly a syllable is in none."""
    names, found = rng.sample(sorted(syllables), len(syllables)), []
    gap = np.zeros(round(GAP_S * RATE), np.float32)
    while len(names) > 1:
        take = [names.pop() for _ in range(min(len(names), rng.randint(2, 5)))]
        pieces = [piece for name in take for piece in (syllables[name], gap)][:-1]
        found.append((" ".join(take), np.concatenate(pieces)))
    return found


def prepare(out: Path, cache: Path) -> dict[str, int]:
    """Write audio and manifests below `out`; return the number of recordings in each set."""
    unpack("gcin-voice", cache)
    syllables: dict[str, dict[str, Wave]] = {TRAIN: {}, HELD_OUT: {}}
    for path in sorted((cache / "usr/share/gcin-voice/ogg").glob("*/*.ogg")):
        if text := pinyin(path.parent.name):
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
            syllables[path.stem][text] = np.clip(soxr.resample(samples.mean(1), rate, RATE), -1, 1)
    rng = random.Random(0)
    learnt = [*syllables[TRAIN].items(), *(pair for _ in range(ROUNDS) for pair in joined(syllables[TRAIN], rng))]
    heard = [*syllables[HELD_OUT].items()]
    sets = {
        "train": (TRAIN, learnt),
        "dev": (HELD_OUT, heard[::DEV]),
        "test": (HELD_OUT, [pair for i, pair in enumerate(heard) if i % DEV]),
    }
    for split, (speaker, those) in sets.items():
        rows = [row(Path("audio") / speaker / f"{t.replace(' ', '_')}.flac", out, w, t, speaker) for t, w in those]
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rows)
        (out / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return {split: len(those) for split, (_, those) in sets.items()}


def main() -> None:
    """Parse the command line and prepare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for audio and manifests")
    parser.add_argument("--cache", type=Path, help="folder for the unpacked package (OUT/package)")
    args = parser.parse_args()
    print(prepare(args.out, args.cache or args.out / "package"))


if __name__ == "__main__":
    main()
