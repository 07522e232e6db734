"""The recogniser: tokens, transcripts, error rates, texts that are too long."""

import warnings

import pytest
import torch

from anemone.data.batch import Batch
from anemone.metrics.wer import cer, wer
from anemone.testing import speech, tiny


def batch_of(task, texts, seconds) -> Batch:
    audio = [torch.from_numpy(speech(s, seed=i)) for i, s in enumerate(seconds)]
    targets = [torch.tensor(task.encode(text), dtype=torch.long) for text in texts]
    return Batch(
        torch.nn.utils.rnn.pad_sequence(audio, batch_first=True),
        torch.tensor([len(a) for a in audio]),
        torch.nn.utils.rnn.pad_sequence(targets, batch_first=True),
        torch.tensor([len(t) for t in targets]),
        torch.arange(7, 7 + len(texts)),
    )


def test_texts_go_to_tokens_and_back():
    task = tiny("recognition")
    assert task.tokenizer.decode(task.encode("he said no")) == "he said no"
    assert task.target == "text" and task.monitor == ("wer", "min")


def test_a_transcript_is_its_tokens():
    task = tiny("recognition")
    results = task.transcribe([speech(1.0), speech(0.5)])
    assert any(result.tokens for result in results)
    for result in results:
        assert result.text == task.tokenizer.decode(result.tokens)


def test_error_rates_are_those_of_the_transcripts():
    task, texts = tiny("recognition"), ["yes no", "a longer text", "stop"]
    batch = batch_of(task, texts, (0.8, 1.4, 0.4))
    heard = [r.text for r in task.transcribe([a[:n] for a, n in zip(batch.audio, batch.audio_len, strict=True)])]
    summary = task.summarize(task.evaluate(batch))
    assert summary["wer"] == pytest.approx(wer(heard, texts))
    assert summary["cer"] == pytest.approx(cer(heard, texts))
    assert summary["infeasible"] == 0


def test_a_text_longer_than_its_recording_is_counted_and_told_once():
    task = tiny("recognition")
    batch = batch_of(task, ["no", "far too long a text"], (0.5, 0.1))
    assert task.summarize(task.evaluate(batch))["infeasible"] == 1
    with pytest.warns(UserWarning, match=r"rows \[8\] have fewer frames"):
        total, count = task.loss(batch)
    assert total.isfinite() and count == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task.loss(batch)


def test_it_learns_a_batch_by_heart():
    torch.manual_seed(0)
    task = tiny("recognition").train()
    batch = batch_of(task, ["yes", "no"], (0.5, 0.4))
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        total, count = task.loss(batch)
        (total / count).backward()
        optimizer.step()
    assert task.eval().summarize(task.evaluate(batch))["wer"] == 0
