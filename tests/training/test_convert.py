"""Models from one format to another: the same weights, settings and tokenizer; what cannot be is refused by name."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from anemone import tasks
from anemone.checkpoint.huggingface import read_huggingface, write_huggingface
from anemone.errors import AnemoneError
from anemone.models.text.llama import LlamaConfig
from anemone.parallel.initial import initialize
from anemone.parallel.mesh import Mesh, ParallelConfig
from anemone.testing import run_ranks, tiny
from anemone.training.convert import convert
from anemone.training.experiment import train
from anemone.training.layout import build_task, lay_out
from anemone.training.precision import PRECISIONS
from anemone.training.settings import experiment

SENTENCES = Path(__file__).parents[1] / "golden/parity/features/bpe_64.model"


def folder_of(path, *, vocab_size=64, dtype=torch.float32, tokenizer=True, **changes):
    """A folder in Hugging Face's format, of a model that knows nothing."""
    shape = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_ff": 48, **changes}
    with torch.device("meta"):
        network = LlamaConfig(size="custom", **shape).build(vocab_size)
    initialize(network, network.draw, 3)
    files = {"tokenizer.model": SENTENCES.read_bytes()} if tokenizer else {}
    own = dict(network.named_parameters())
    write_huggingface(path, own, network.shape.tree(), vocab_size, dtype=dtype, files=files)
    return path


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


FAMILIES = ({}, {"tie_embeddings": True}, {"num_experts": 4, "window": 8})


@pytest.mark.parametrize("changes", FAMILIES, ids=str)
def test_a_folder_becomes_an_archive_that_writes_texts_and_comes_back(tmp_path, changes):
    source = folder_of(tmp_path / "theirs", dtype=torch.bfloat16, vocab_size=72, **changes)
    convert(source, tmp_path / "ours.anemone")
    task = tasks.load(tmp_path / "ours.anemone")
    assert (task.network.vocab_size, task.tokenizer.vocab_size) == (72, 64)
    assert task.generate(["the king"], max_new_tokens=4, seed=1)[0].tokens
    stored = read_huggingface(source)
    held = dict(task.network.named_parameters(remove_duplicate=False))
    assert same(held, {name: stored[name].float() for name in stored})
    convert(tmp_path / "ours.anemone", tmp_path / "again")
    for file in ("config.json", "model.safetensors", "tokenizer.model"):
        assert (tmp_path / "again" / file).read_bytes() == (source / file).read_bytes(), file


def test_a_folder_without_a_tokenizer_takes_the_one_that_is_given(tmp_path):
    source = folder_of(tmp_path / "theirs", vocab_size=256, tokenizer=False)
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(
        AnemoneError, match=r"must hold `tokenizer\.model`.*: its `tokenizer\.json` is of a kind that is"
    ):
        convert(source, tmp_path / "ours.anemone")
    with pytest.raises(
        AnemoneError, match=r"`--tokenizer` must be bytes or a SentencePiece model, but `none` is no file"
    ):
        convert(source, tmp_path / "ours.anemone", tokenizer="none")
    convert(source, tmp_path / "ours.anemone", tokenizer="bytes")
    assert tasks.load(tmp_path / "ours.anemone").tokenizer.encode("a") == [97]
    convert(source, tmp_path / "sentences", tokenizer=str(SENTENCES), dtype=torch.float16)
    assert (tmp_path / "sentences/tokenizer.model").read_bytes() == SENTENCES.read_bytes()
    assert read_huggingface(tmp_path / "sentences")["norm.weight"].dtype == torch.float16


def broken(folder, file, change):
    """A copy of the folder with one of its files changed; without it where there is no change."""
    copy = folder.with_name("broken")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    tree = json.loads((copy / file).read_text()) if change else {}
    (copy / file).unlink()
    if change:
        (copy / file).write_text(json.dumps(tree | change))
    return copy


def test_what_cannot_be_converted_is_refused_by_name(tmp_path):
    source = folder_of(tmp_path / "theirs")
    tasks.save(tiny("classification"), words := tmp_path / "words.anemone")
    tasks.save(tiny("language_modelling"), text := tmp_path / "text.anemone")
    new, folder = tmp_path / "new.anemone", tmp_path / "new"
    gpt2 = {"model_type": "gpt2"}
    for words_said, act in (
        (r"`gone` is neither a file or folder that exists nor", lambda: convert("gone", new)),
        (r"broken` must hold `model\.safetensors`", lambda: convert(broken(source, "model.safetensors", {}), new)),
        (r"`model_type` must be one of .*, but is 'gpt2'", lambda: convert(broken(source, "config.json", gpt2), new)),
        (r"Hugging Face's folders hold llama models, and no quartznet", lambda: convert(words, folder)),
        (
            r"a\.nemo` cannot be written: NeMo's archives hold models of speech",
            lambda: convert(text, tmp_path / "a.nemo"),
        ),
        (r"`--dtype` must be left out for", lambda: convert(text, new, dtype=torch.float16)),
        (r"`--tokenizer` must be left out for", lambda: convert(text, folder, tokenizer="bytes")),
        (r"must be a new folder or a model, but is something else", lambda: convert(text, tmp_path)),
    ):
        with pytest.raises(AnemoneError, match=words_said):
            act()
    assert not new.exists() and not folder.exists()


# --- runs -------------------------------------------------------------------------------------------------------------


def settings(tmp_path, folder, *more):
    (tmp_path / "text.txt").write_text("the king was here and the queen was there " * 40)
    return [
        f"data.train={tmp_path / 'text.txt'}",
        *("data.valid=[]", "data.sequence_len=16", "data.batch_size=2", "trainer.max_steps=2", "run.progress=none"),
        *(f"run.folder={tmp_path / 'run'}", f"run.init={folder}", "trainer.accelerator=cpu", *more),
    ]


def test_a_run_starts_with_a_folder_and_can_become_one(tmp_path):
    source = folder_of(tmp_path / "theirs", vocab_size=72)
    config = experiment("llama_tiny", settings(tmp_path, source, "optim.lr=1e-30", "trainer.ema_decay=0.9"))
    assert (config.model.d_model, config.task.vocab_size) == (32, 72)
    result = train(config)
    stored = read_huggingface(source)
    assert same(dict(result.task.network.named_parameters()), dict(stored))
    for made, part in (("a", "run"), ("b", "run/checkpoints/step_2"), ("c", "run/model.anemone")):
        convert(tmp_path / part, tmp_path / made)
        for file in ("config.json", "model.safetensors", "tokenizer.model"):
            assert (tmp_path / made / file).read_bytes() == (source / file).read_bytes(), (part, file)


def test_a_run_that_cannot_start_with_a_folder_is_refused(tmp_path):
    source = folder_of(tmp_path / "theirs", tokenizer=False)
    (source / "tokenizer.json").write_text("{}")
    said = r"`task\.tokenizer` must be of the 64 units of .*, but is 256 instead\. .*`tokenizer\.json` is of a kind"
    with pytest.raises(AnemoneError, match=said):
        experiment("llama_tiny", settings(tmp_path, source))
    with pytest.raises(AnemoneError, match=r"model_type` must be one of \[.*\], but is 'llama' instead"):
        experiment("telephone_words_quartznet", [f"run.init={source}"])
    with pytest.raises(
        AnemoneError, match=re.escape(f"`{tmp_path / 'gone'}` is neither a file or folder that exists nor")
    ):
        experiment("llama_tiny", settings(tmp_path, tmp_path / "gone"))


def started(rank, config, degrees):
    """Whether this rank has its part of the folder's weights."""
    task = build_task(config)
    lay_out(task, Mesh(ParallelConfig(**degrees)), precision=PRECISIONS["32"], seed=0, init=config.run.init)
    stored = read_huggingface(config.run.init)
    own = dict(task.network.named_parameters())
    wholes = {name: p.full_tensor() if p.__class__.__name__ == "DTensor" else p for name, p in own.items()}
    return sorted(own), all(torch.equal(whole, stored[name]) for name, whole in wholes.items())


@pytest.mark.parametrize(
    "degrees", [{"dp_shard": 2, "tp": 2}, {"pp": 2, "dp_shard": 2}, {"dp_shard": 4, "ep": 2}], ids=str
)
def test_each_process_starts_with_what_it_holds_of_a_folder(tmp_path, degrees):
    source = folder_of(tmp_path / "theirs", num_experts=4)
    config = experiment("llama_tiny", settings(tmp_path, source))
    ranks = run_ranks(4, started, config, degrees)
    assert all(right for _, right in ranks)
    assert {name for names, _ in ranks for name in names} == set(read_huggingface(source))


def test_a_folder_of_speech_becomes_an_archive(tmp_path):
    source = Path(__file__).parents[1] / "golden/huggingface/whisper"
    convert(source, tmp_path / "ours.anemone")
    ours, theirs = tasks.load(tmp_path / "ours.anemone"), tasks.load(source)
    assert same(ours.network.state_dict(), theirs.network.state_dict())
