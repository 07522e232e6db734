"""Cut the spoken words of `anemone/assets/telephone_words` from the telephone prompts of Asterisk.

    pip install -r requirements.txt
    python cut.py --cache DIR [--out ../../anemone/assets/telephone_words]

Fetches the prompts by the names of their Debian packages (needs `apt-get` and `dpkg`), decodes them (G.722, 16 kHz),
cuts the takes listed in `cuts.jsonl` and writes one Ogg Opus file a language and the manifests train.jsonl, dev.jsonl
and test.jsonl. `align.py` made the list; it need not run again. Licences and attribution: the asset's README.md.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))
from asterisk import VOICES, decode, fetch
from spoken_words import RATE, faded

GAP_S = 0.2  # silence between two takes of a file
HERE = Path(__file__).parent


def write(lang: str, cuts: list[dict[str, Any]], cache: Path, out: Path) -> list[dict[str, Any]]:
    """Write the takes of one language into one Opus file; return its manifest rows, each with its `split`."""
    gap = np.zeros(round(GAP_S * RATE), np.float32)
    pieces, rows, at = [gap], [], len(gap)
    for cut in cuts:
        samples = faded(decode(lang, cut["prompt"], cache), cut["start"], cut["end"])
        row = {
            "audio_filepath": f"{lang}.opus",
            "offset": at / RATE,
            "duration": len(samples) / RATE,
            "label": f"{lang}:{cut['word']}",
            "lang": lang,
            "speaker": VOICES[lang],
            "prompt": cut["prompt"],
            "group": cut["group"],
        }
        rows.append(row | {"split": cut["split"]})
        pieces += [samples, gap]
        at += len(samples) + len(gap)
    wave = np.concatenate(pieces)
    soundfile.write(out / f"{lang}.opus", wave, RATE, format="OGG", subtype="OPUS", compression_level=0.95)
    return rows


def main() -> None:
    """Rebuild the asset from the cut list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for packages and what they hold")
    parser.add_argument("--out", type=Path, default=HERE / "../../anemone/assets/telephone_words")
    args = parser.parse_args()
    cuts = defaultdict(list)
    for line in (HERE / "cuts.jsonl").read_text(encoding="utf-8").splitlines():
        cut = json.loads(line)
        cuts[cut["lang"]].append(cut)
    rows = []
    args.out.mkdir(parents=True, exist_ok=True)
    for lang in VOICES:
        fetch(lang, args.cache)
        rows += write(lang, cuts[lang], args.cache, args.out)
    for split in ("train", "dev", "test"):
        chosen = [{k: v for k, v in row.items() if k != "split"} for row in rows if row["split"] == split]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        (args.out / f"{split}.jsonl").write_text(text, encoding="utf-8")
        print(f"{split}: {len(chosen)} takes, {len({row['label'] for row in chosen})} words")


if __name__ == "__main__":
    main()
