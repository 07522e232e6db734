"""Continue texts: each prompt with what a language model writes after it.

  anemone generate runs/llama_tiny/model.anemone "My fellow Americans," --temperature 0.8

Without a prompt it writes a text of its own.
"""

import argparse
import json

from anemone.cli import positive
from anemone.cli.recordings import CONTROLS, task_for

SEEN = {code: shown for code, shown in CONTROLS.items() if chr(code) != "\n"}
"""Characters that could steer a terminal, but for the line break, which texts have."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("model", metavar="MODEL", help="an archive (.anemone, a folder)")
    parser.add_argument("prompts", metavar="PROMPT", nargs="*", help="beginnings of texts")
    parser.add_argument("--max-new-tokens", type=positive, default=100, metavar="N", help="at most (default 100)")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="0 is the likeliest (default 1)")
    parser.add_argument("--top-k", type=positive, metavar="N", help="draw from the N likeliest tokens (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default 0)")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="texts at once (default 16)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Prints the texts."""
    task = task_for(args.model, "generate")
    prompts = args.prompts or [""]
    found = task.generate(
        prompts,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        seed=args.seed,
        batch_size=args.batch_size,
    )
    for prompt, continued in zip(prompts, found, strict=True):
        row = {"prompt": prompt, "text": continued.text}
        plain = (prompt + continued.text).translate(SEEN)
        print(json.dumps(row, ensure_ascii=False) if args.json else plain, flush=True)
    return 0
