"""Make `telephone_prompts`: the prompts of the Asterisk telephone exchange, with their texts, in five languages.

    python recipes/telephone_prompts/prepare.py OUT [--langs en fr es it ru]

Fetches the prompts by the names of their Debian packages (needs `apt-get` and `dpkg`) and writes OUT/LANG/audio/*.flac
at 16 kHz and OUT/LANG/{train,dev,test}.jsonl, and once more as written_{train,dev,test}.jsonl, whose texts keep
capitals, punctuation and figures. No text stands in two sets. Licences and caveats: README.md.
"""

import argparse
import hashlib
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))
from asterisk import DIGITS, VOICES, decode, fetch, texts
from spoken_words import RATE

LONGEST_S = 20.0
SHARES = {"test": 20, "dev": 30}  # percent of the texts of two or more words, up to here; the others train
ALPHABETS = {
    "en": "abcdefghijklmnopqrstuvwxyz'",
    "es": "abcdefghijklmnopqrstuvwxyzñ",
    "fr": "abcdefghijklmnopqrstuvwxyzàâçèéêëîïôùûü'",
    "it": "abcdefghijklmnopqrstuvwxyzàèéìòù'",
    "ru": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
}


def written(text: str) -> str | None:
    """The text of a prompt as it is written, with simple quotation marks and single spaces; None where it is broken.

    Some texts have a question mark in place of a letter with an accent, or a mark where a word is spoken.
    """
    plain = text.translate(str.maketrans("\u2019“”«»", "'" + 4 * '"')).replace("…", "...")
    broken = re.search(r"\?\w|\w\? [a-z]| \? \w|[*#<>/()]|^[\w-]+: ", plain)
    return None if broken else " ".join(plain.split())


def normalised(text: str, lang: str) -> str | None:
    """The words in lower case, single figures spelled out; None where other figures or foreign letters stand.

    Spanish texts mostly lack the accents of vowels, so all of them go; ё becomes е.
    """
    digits = DIGITS[lang].split()
    words = re.sub(r"(?<!\d)(\d)(?!\d)", lambda m: f" {digits[int(m[1])]} ", text.lower()).replace("\u0451", "\u0435")
    if lang == "es":
        words = re.sub("[áéíóúü]", lambda m: unicodedata.normalize("NFD", m[0])[0], words)
    words = re.sub(r"(?<!\w)'|'(?!\w)", " ", re.sub(r'[".,!?;:\u2013-]', " ", words))
    words = " ".join(words.split())
    return words if words and set(words) <= {*ALPHABETS[lang], " "} else None


def split_of(text: str) -> str:
    """The set of a text, by its hash: a single word always trains, as it is often said nowhere else."""
    place = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 100
    return next((split for split, end in SHARES.items() if place < end), "train") if " " in text else "train"


def rows(lang: str, out: Path, cache: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write the recordings of one language; yield (set, row of its manifest)."""
    for prompt, text in texts(lang, cache):
        proper = written(text)
        words = normalised(proper, lang) if proper else None
        wave = decode(lang, prompt, cache) if words else ()
        if not 0 < len(wave) <= LONGEST_S * RATE:
            continue
        path = Path("audio") / f"{prompt.replace('/', '_')}.flac"
        (out / "audio").mkdir(parents=True, exist_ok=True)
        soundfile.write(out / path, wave, RATE)
        row = {"audio_filepath": str(path), "duration": len(wave) / RATE, "text": words, "written": proper}
        yield split_of(str(words)), row | {"lang": lang, "speaker": VOICES[lang], "prompt": prompt}


def prepare(lang: str, out: Path, cache: Path) -> dict[str, tuple[int, float]]:
    """Write audio and manifests of one language below `out`; return prompts and minutes of each set."""
    found = list(rows(lang, out / lang, cache))
    counts = {}
    for split in ("train", "dev", "test"):
        those = [row for name, row in found if name == split]
        for name, column in ((split, "text"), (f"written_{split}", "written")):
            text = "".join(json.dumps(row | {"text": row[column]}, ensure_ascii=False) + "\n" for row in those)
            (out / lang / f"{name}.jsonl").write_text(text, encoding="utf-8")
        counts[split] = len(those), round(sum(row["duration"] for row in those) / 60, 1)
    return counts


def main() -> None:
    """Parse the command line and prepare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for audio and manifests")
    parser.add_argument("--langs", nargs="+", choices=list(VOICES), default=list(VOICES), help="languages (all five)")
    parser.add_argument("--cache", type=Path, help="folder for the unpacked packages (OUT/packages)")
    args = parser.parse_args()
    for lang in args.langs:
        cache = args.cache or args.out / "packages"
        fetch(lang, cache)
        print(lang, prepare(lang, args.out, cache))


if __name__ == "__main__":
    main()
