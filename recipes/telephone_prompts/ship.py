"""Writes the English recogniser with its card, and a slice of its data, to where the package keeps what it ships.

    python recipes/telephone_prompts/prepare.py data/telephone_prompts
    anemone train telephone_prompts_en_fastconformer_ctc run.folder=runs/telephone_prompts_en
    python recipes/telephone_prompts/ship.py runs/telephone_prompts_en/model.anemone

Prints the entry for ``anemone/assets/registry.yaml``, and the numbers of README.md here and of ``docs/recognition.md``.
Weights are stored in half precision.
"""

import argparse
import json
from pathlib import Path

import soundfile

import anemone
from anemone.checkpoint.registry import fingerprint
from anemone.training.experiment import evaluate

NAME = "telephone-prompts-en"
ASSETS = Path(anemone.__file__).parent / "assets"
SLICES = {("en", "test"): 24, ("it", "train"): 60, ("it", "test"): 16}  # prompts in the package
LONGEST_S = 6.0
TEXT = """One voice in a studio, saying telephone prompts: the score says that new sentences of this woman about calls,
conferences and mailboxes are understood about as well as that. It is meant for tests, tutorials and as a start for
adaptation; other speakers, rooms or subjects it will mostly not understand. {prompts} prompts were held out by their
text; they share phrases with those of training.

Trained on {minutes:.0f} minutes of the prompts of Asterisk core sounds 1.6.1, © 2003-2010 Allison Smith
(http://www.theivrvoice.com), financial contributions by Digium, Inc. (http://www.digium.com), CC-BY-SA-3.0. The run was
stopped at step 1,656 of 2,449 and resumed with a schedule that ended at step 1,756. Written by
`recipes/telephone_prompts/ship.py`."""


def share(data: Path) -> None:
    """Write a few short prompts of English and Italian as Ogg Opus, with manifests, into the package."""
    out = ASSETS / "telephone_prompts"
    for (lang, split), count in SLICES.items():
        (out / lang).mkdir(parents=True, exist_ok=True)
        rows = [json.loads(line) for line in (data / lang / f"{split}.jsonl").read_text("utf-8").splitlines()]
        chosen = [row for row in rows if row["duration"] <= LONGEST_S and " " in row["text"]][:count]
        for row in chosen:
            samples, rate = soundfile.read(data / lang / row["audio_filepath"], dtype="float32")
            row["audio_filepath"] = f"{Path(row['audio_filepath']).stem}.opus"
            soundfile.write(out / lang / row["audio_filepath"], samples, rate, format="OGG", subtype="OPUS")
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        (out / lang / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def main() -> None:
    """Parse the command line, score the model and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the trained archive")
    parser.add_argument("--data", type=Path, default=Path("data/telephone_prompts"), help="what prepare.py wrote")
    args = parser.parse_args()
    share(args.data)
    path = ASSETS / "models" / f"{NAME}.anemone"
    task = anemone.load(args.model)
    task.network.half()
    anemone.save(task, path)
    task = anemone.load(path)
    metrics = evaluate(task, [args.data / "en/test.jsonl"])
    part = evaluate(task, [ASSETS / "telephone_prompts/en/test.jsonl"])
    rows = [json.loads(line) for line in (args.data / "en/train.jsonl").read_text("utf-8").splitlines()]
    task.network.half()
    anemone.save(
        task,
        path,
        notes={
            "name": NAME,
            "language": ["en"],
            "licence": "cc-by-sa-3.0",
            "datasets": ["telephone_prompts"],
            "scores": {name: round(metrics[name], 4) for name in ("wer", "cer")},
            "text": TEXT.format(
                prompts=round(metrics["utterances"]), minutes=sum(row["duration"] for row in rows) / 60
            ),
        },
    )
    size, sha256 = fingerprint(path)
    print(
        f"{NAME}:\n  task: recognition\n  language: [en]\n  licence: cc-by-sa-3.0\n  size: {size}\n"
        f"  sha256: {sha256}\n  origin: shipped\n  location: models/{path.name}\n"
        f"  description: telephone prompts by one voice; word errors {100 * metrics['wer']:.1f} % on held-out prompts; "
        "its run was cut short"
    )
    print(
        f"\n{sum(p.numel() for p in task.parameters()) / 1e6:.1f} million parameters, {size / 1e6:.1f} MB, "
        f"word errors {100 * metrics['wer']:.1f} %, character errors {100 * metrics['cer']:.1f} % on "
        f"{metrics['utterances']:.0f} held-out prompts, {100 * part['wer']:.1f} % of words on the "
        f"{part['utterances']:.0f} that come with the package"
    )
    for name in ("conf-lockednow", "agent-loggedoff"):
        print(name, "->", task.transcribe([ASSETS / f"telephone_prompts/en/{name}.opus"])[0].text)


if __name__ == "__main__":
    main()
