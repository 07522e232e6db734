"""Write a model in another format: an archive of ours (.anemone) or of NeMo's (.nemo), or a folder of Hugging Face's.

  anemone convert runs/mine mine-hf --dtype bfloat16
  anemone convert Mistral-7B-v0.1 mistral.anemone
  anemone convert runs/recogniser recogniser.nemo
  anemone convert runs/adapted/model.anemone whole.anemone --merge

What is read: archives, names of pretrained models, runs (their newest checkpoint), checkpoints, and folders of Hugging
Face's: Llama, Mistral or Mixtral, with config.json, *.safetensors and tokenizer.model. No more than one tensor is in
memory at a time.
"""

import argparse

DTYPES = ("float32", "bfloat16", "float16")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("model", metavar="FROM", help="an archive, a pretrained name, a run, a Hugging Face folder")
    parser.add_argument(
        "target", metavar="TO", help="NAME.anemone, NAME.nemo, or a new folder for Hugging Face's format"
    )
    parser.add_argument("--merge", action="store_true", help="make low-rank changes (LoRA) a part of the weights")
    parser.add_argument("--dtype", choices=DTYPES, help="of weights for others (default: as they are)")
    parser.add_argument(
        "--tokenizer", default="", metavar="FILE", help="a SentencePiece model, or bytes, if FROM has none"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the model and says what it is."""
    import torch

    from anemone.training.convert import convert

    dtype = getattr(torch, args.dtype) if args.dtype else None
    task = convert(args.model, args.target, tokenizer=args.tokenizer, dtype=dtype, merge=args.merge)
    tree = task.config_tree()
    number = sum(p.numel() for p in task.parameters())
    print(f"{args.target}: {tree['task']['kind']}, {tree['model']['kind']}, {number:,} parameters")
    return 0
