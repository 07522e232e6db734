"""`anemone tokenizer train` makes the files of a tokenizer out of manifests and texts."""

import json

from anemone.cli import main
from anemone.features.tokenizers import SentencePieceConfig

SAID = ["Hello, world!", "it's the World again", "once more: hello"]


def sources(folder):
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in SAID[:2]))
    (folder / "b.txt").write_text(SAID[2] + "\n\n")
    return [str(folder / "a.jsonl"), str(folder / "b.txt")]


def test_texts_become_a_tokenizer_and_what_to_write_into_an_experiment(tmp_path, capsys):
    words = ["tokenizer", "train", str(tmp_path / "out"), *sources(tmp_path), "--vocab-size", "30"]
    assert main([*words, "--case", "lower", "--punctuation", "drop", "--special", "<en>"]) == 0
    said = capsys.readouterr().out.splitlines()
    model = tmp_path / "out" / "tokenizer.model"
    assert said[0] == f"task.tokenizer={{kind: sentencepiece, path: {model}}}"
    assert said[1].startswith("task.text={unicode: 'nfkc', case: 'lower', punctuation: 'drop'")
    tokenizer = SentencePieceConfig(path=str(model)).build()
    assert tokenizer.vocab_size == 30 and "<en>" in tokenizer.pieces
    assert tokenizer.decode(tokenizer.encode("hello world it's")) == "hello world it's"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "tokenizer.model",
        "tokenizer.vocab",
        "vocab.txt",
    ]


def test_mistakes_name_file_and_line(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"words": "bad"}\n')
    assert main(["tokenizer", "train", str(tmp_path / "out"), str(tmp_path / "a.jsonl")]) == 2
    assert f"{tmp_path / 'a.jsonl'}:2: must be an object with a text `text`" in capsys.readouterr().err
    assert main(["tokenizer", "train", str(tmp_path / "out"), str(tmp_path / "gone.txt")]) == 2
    assert "must be a file of text in UTF-8 that exists" in capsys.readouterr().err
    assert main(["tokenizer", "train", str(tmp_path / "out"), *sources(tmp_path), "--vocab-size", "3000"]) == 2
    assert "`vocab_size` must be" in capsys.readouterr().err
    assert main(["tokenizer", "trian"]) == 2
    assert "Did you mean `train`?" in capsys.readouterr().err
