"""The recogniser: tokens, transcripts, error rates, texts that are too long."""

import warnings

import pytest
import torch

import anemone
from anemone.data.batch import Batch
from anemone.features.tokenizer_training import TokenizerTrainingConfig, train_tokenizer
from anemone.metrics.wer import cer, wer
from anemone.tasks import rebuild
from anemone.tasks.recognition import Transcript
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


@pytest.mark.parametrize("kind", ["characters", "sentencepiece"])
def test_written_mandarin_goes_through_tokenizer_archive_and_character_errors(kind, tmp_path):
    texts = ["今天天气很好", "明天不下雨", "我们去学校", "他说中文", "今天不去学校"]
    tokenizer: dict = {"kind": "characters", "characters": sorted(set("".join(texts)))}
    if kind == "sentencepiece":
        config = TokenizerTrainingConfig(vocab_size=len(tokenizer["characters"]) + 8)
        (tmp_path / "zh.model").write_bytes(train_tokenizer(texts, config)["tokenizer.model"])
        tokenizer = {"kind": "sentencepiece", "path": str(tmp_path / "zh.model")}
    model = {"kind": "quartznet", "size": "tiny"}
    features = {"kind": "log_mel", "num_mels": 20}
    task = rebuild({"task": {"kind": "recognition", "tokenizer": tokenizer}, "model": model, "features": features})
    assert [task.tokenizer.decode(task.encode(text)) for text in texts] == texts
    anemone.save(task, tmp_path / "zh.anemone")
    (tmp_path / "zh.model").unlink(missing_ok=True)
    back = anemone.load(tmp_path / "zh.anemone")
    assert [back.encode(text) for text in texts] == [task.encode(text) for text in texts]
    batch = batch_of(back, texts[:2], (1.2, 1.0))
    heard = [Transcript("今天气不好", []), Transcript("明天不下雨", [])]
    with torch.no_grad():
        metrics = back.summarize(back.scored(back.output(batch), batch, heard))
    assert metrics["cer"] == pytest.approx(2 / 11) and metrics["wer"] == pytest.approx(1 / 2)
