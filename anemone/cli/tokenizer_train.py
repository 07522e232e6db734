"""Make a tokenizer of the texts of manifests (.jsonl, .json, or another source of utterances) or of plain texts (.txt,
a sentence a line).

  anemone tokenizer train OUT train.jsonl --kind unigram --vocab-size 256 --case lower --punctuation drop

OUT gets tokenizer.model, tokenizer.vocab and vocab.txt (of WordPiece, vocab.txt alone); the same texts and settings
give the same bytes. A recogniser that is to write texts in the same way needs the same `task.text`, which is printed.
"""

import argparse

from anemone.cli import positive

KINDS = ("bpe", "unigram", "char", "wordpiece")
UNICODE = ("keep", "nfc", "nfd", "nfkc", "nfkd")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("out", metavar="OUT", help="a folder")
    parser.add_argument("source", metavar="SOURCE", nargs="+", help="manifests or texts")
    parser.add_argument("--kind", choices=KINDS, default="bpe", help="of pieces (default bpe)")
    parser.add_argument("--vocab-size", type=positive, default=1024, metavar="N", help="pieces (default 1024)")
    parser.add_argument("--coverage", type=float, default=1.0, metavar="SHARE", help="of the characters (default 1)")
    parser.add_argument("--special", nargs="*", default=[], metavar="PIECE", help="never cut, such as <en> <fr>")
    parser.add_argument("--control", nargs="*", default=[], metavar="PIECE", help="that no text holds, such as <pad>")
    parser.add_argument("--byte-fallback", action="store_true", help="write unknown characters as bytes")
    parser.add_argument("--end", action="store_true", help="with a piece </s> that ends a document")
    parser.add_argument("--unicode", choices=UNICODE, default="nfkc", help="form of characters (default nfkc)")
    parser.add_argument("--case", choices=("keep", "lower", "upper"), default="keep", help="of letters (default keep)")
    parser.add_argument("--punctuation", choices=("keep", "drop"), default="keep", help="(default keep)")
    parser.add_argument("--kept", default="'", metavar="SIGNS", help="that stay all the same (default ')")
    parser.add_argument("--field", default="text", metavar="NAME", help="of the text in a manifest (default text)")


def run(args: argparse.Namespace) -> int:
    """Makes the tokenizer and says what to write into an experiment."""
    from pathlib import Path

    from anemone.config import decode
    from anemone.data.texts import read_texts
    from anemone.features.tokenizer_training import MODEL, PIECES, TokenizerTrainingConfig, train_tokenizer

    text = {name: getattr(args, name) for name in ("unicode", "case", "punctuation", "kept")}
    names = ("kind", "vocab_size", "coverage", "special", "control", "byte_fallback", "end")
    config = decode(TokenizerTrainingConfig, {name: getattr(args, name) for name in names} | {"text": text})
    files = train_tokenizer(read_texts(args.source, args.field), config)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (out / name).write_bytes(data)
    kind, file = ("sentencepiece", MODEL) if MODEL in files else ("wordpiece", PIECES)
    print(f"task.tokenizer={{kind: {kind}, path: {out / file}}}")
    print("task.text={" + ", ".join(f"{name}: {value!r}" for name, value in text.items()) + "}")
    return 0
