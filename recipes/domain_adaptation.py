"""Adapts a recogniser to a new domain, and says what that gained there and what it cost in the old one.

    python recipes/domain_adaptation.py MODEL runs/mine --train train.jsonl --old old_test.jsonl --new new_test.jsonl

MODEL is an archive or a pretrained name; it gives architecture, features and tokenizer. What comes after FOLDER as
key=value is a setting of the run: `trainer.max_steps=2000`, `optim.lr=1e-4`, or, for low-rank changes alone,
`"adapt={name: mine, lora: {targets: [encoder]}}"`. A share of old training data among the new (`--train train.jsonl
old_train.jsonl`) is what keeps the old domain. Called again, it goes on.
"""

import argparse
from pathlib import Path

import anemone
from anemone.training.domains import before_and_after, table_of
from anemone.training.settings import experiment

SETTINGS = """
defaults:
  - /optim: adamw
  - /schedule: cosine
  - _self_
task: {kind: recognition}
data: {kind: speech, plan: {max_batch_seconds: 60}}
optim: {lr: 3e-4}
schedule: {warmup_ratio: 0.1}
trainer: {max_steps: 1000, clip_norm: 20.0}
"""


def main() -> None:
    """Parse the command line, train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="an archive (.anemone, .nemo, a folder), or a pretrained name")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the run lives")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of the run")
    parser.add_argument("--train", nargs="+", required=True, metavar="FILE", help="manifests to learn from")
    parser.add_argument("--old", nargs="+", required=True, metavar="FILE", help="held-out manifests of the old domain")
    parser.add_argument("--new", nargs="+", required=True, metavar="FILE", help="held-out manifests of the new domain")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    recipe = args.folder / "recipe.yaml"
    recipe.write_text(SETTINGS, encoding="utf-8")
    files = ",".join(args.train)
    settings = [f"data.train=[{files}]", f"run.folder={args.folder}", f"run.init={args.model}", *args.settings]
    adapted = anemone.train(experiment(str(recipe), settings)).task
    changes = before_and_after(anemone.load(args.model), adapted, {"old": args.old, "new": args.new})
    print(table_of(changes, ["wer", "cer", "loss"]))


if __name__ == "__main__":
    main()
