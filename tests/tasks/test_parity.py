"""NeMo's archives, loaded as tasks: the same labels, texts, scores and losses."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import anemone
from anemone.data.batch import Batch
from anemone.features.spec_augment import SpecAugment

GOLDEN = Path(__file__).parents[1] / "golden" / "parity"
CLASSIFIERS = ["matchboxnet_commands", "marblenet_vad"]
FASTCONFORMERS = ["fastconformer_ctc_bpe", "fastconformer_tdt_bpe"]
UTTERANCES = np.load(GOLDEN / "utterances.npz")
TEXTS = ["he was not an ill disposed young man", "he might even have been made amiable himself"]


def expected(name: str) -> dict:
    return json.loads((GOLDEN / name / "expected.json").read_text("utf-8"))


def recordings() -> list[np.ndarray]:
    return [row[:n] for row, n in zip(UTTERANCES["signal"], UTTERANCES["signal_len"], strict=True)]


def batch_for(task: anemone.Task, name: str) -> Batch:
    targets = (
        [task.encode(text) for text in TEXTS] if task.target == "text" else [[n] for n in expected(name)["targets"]]
    )
    rows = [torch.tensor(target) for target in targets]
    return Batch(
        audio=torch.from_numpy(UTTERANCES["signal"].astype(np.float32) / 32768),
        audio_len=torch.from_numpy(UTTERANCES["signal_len"]),
        targets=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        target_len=torch.tensor([len(row) for row in rows]),
        rows=torch.arange(2),
    )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_gives_the_same_labels_and_scores(name):
    task = anemone.load(GOLDEN / name / "model.nemo")
    assert [result.label for result in task.classify(recordings())] == expected(name)["labels"]
    batch = batch_for(task, name)
    with torch.no_grad():
        logits = task(batch.audio, batch.audio_len)
    torch.testing.assert_close(
        logits, torch.from_numpy(np.load(GOLDEN / name / "reference.npz")["logits"]), atol=1e-4, rtol=0
    )


def test_a_recogniser_gives_the_same_texts(tmp_path):
    task = anemone.load(GOLDEN / "quartznet_ctc_char" / "model.nemo")
    for i, audio in enumerate(recordings()):
        soundfile.write(tmp_path / f"{i}.wav", audio, 16_000)
    paths = [tmp_path / "0.wav", tmp_path / "1.wav"]
    texts = expected("quartznet_ctc_char")["texts"][:2]
    for batch_size in (1, 2):
        assert [result.text for result in task.transcribe(paths, batch_size=batch_size)] == texts
    assert [result.text for result in task.transcribe(recordings())] == texts


def test_a_recogniser_reads_texts_as_nemo_s_parser_does():
    task = anemone.load(GOLDEN / "quartznet_ctc_char" / "model.nemo")
    for text in TEXTS:
        assert task.encode(f"  {text.upper()}.") == task.encode(text)
        assert task.tokenizer.decode(task.encode(text.title() + "?")) == text


@torch.no_grad()
@pytest.mark.parametrize("name", FASTCONFORMERS)
def test_a_fastconformer_gives_the_same_states_scores_and_texts(name):
    task = anemone.load(GOLDEN / name / "model.nemo")
    batch, want = batch_for(task, name), np.load(GOLDEN / name / "reference.npz")
    mel = task.network.features(batch.audio, batch.audio_len)
    encoded = task.network.encoder(*mel)
    assert encoded.x_len.tolist() == want["encoded_len"].tolist()
    keep = torch.arange(encoded.x.shape[1]) < encoded.x_len[:, None]
    states = torch.from_numpy(want["encoded"]).transpose(1, 2)
    torch.testing.assert_close(encoded.x[keep], states[keep], atol=1e-4, rtol=0)
    if task.learns_from_text:
        out = task.network.head(*encoded, batch.targets, batch.target_len)
        got = task.network.head.joint(out.x[:, ::6, None] + out.predicted[:, None, ::4])
        got, scores, keep = got.log_softmax(-1), torch.from_numpy(want["joint"]), keep[:, ::6]
    else:
        got, scores = task.network.head(*encoded).x, torch.from_numpy(want["log_probs"])
    torch.testing.assert_close(got[keep], scores[keep], atol=1e-4, rtol=0)
    assert [result.text for result in task.transcribe(recordings())] == expected(name)["texts"]


@pytest.mark.parametrize("name", [*CLASSIFIERS, "quartznet_ctc_char", *FASTCONFORMERS])
def test_losses_are_the_same_before_and_in_training(name):
    task, wanted = anemone.load(GOLDEN / name / "model.nemo"), expected(name)
    batch = batch_for(task, name)
    total, count = task.loss(batch)
    assert (total / count).item() == pytest.approx(wanted["eval_loss"], rel=1e-4)
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0)
    task.train()
    for part in task.network.children():
        part.train(not isinstance(part, SpecAugment))
    for value in wanted["train_losses"]:
        total, count = task.loss(batch)
        assert (total / count).item() == pytest.approx(value, rel=2e-3)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()


@pytest.mark.parametrize("name", [*CLASSIFIERS, "quartznet_ctc_char"])
def test_it_can_be_saved_as_ours(name, tmp_path):
    task = anemone.load(GOLDEN / name / "model.nemo")
    anemone.save(task, tmp_path / "ours.anemone")
    again = anemone.load(tmp_path / "ours.anemone")
    verb = "transcribe" if task.target == "text" else "classify"
    assert getattr(again, verb)(recordings()) == getattr(task, verb)(recordings())
