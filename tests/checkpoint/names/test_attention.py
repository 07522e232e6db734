"""NeMo's encoder-decoders with prompts: the same prompts, states, log-probabilities, losses and texts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import anemone
from anemone.checkpoint.names.attention import tensor_names
from anemone.data.batch import Batch
from anemone.errors import ConfigError

PARITY = Path(__file__).parents[2] / "golden" / "parity"
GOLDEN = PARITY / "canary_options"
REFERENCE, UTTERANCES = np.load(GOLDEN / "reference.npz"), np.load(PARITY / "utterances.npz")
ROWS = [
    {"lang": "en", "pnc": "yes", "task": "asr", "itn": "yes", "decodercontext": "he was"},
    {"source_lang": "de", "target_lang": "de", "pnc": "no", "task": "ast", "itn": "yes"},
]


def loaded(name: str) -> tuple[anemone.Task, dict, Batch]:
    task, wanted = anemone.load(GOLDEN / f"{name}.nemo"), json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    rows = [task.encode.of(text, row) for text, row in zip(wanted["texts"], ROWS, strict=True)]
    tokens = [torch.tensor(row.tokens) for row in rows]
    batch = Batch(
        audio=torch.from_numpy(UTTERANCES["signal"].astype(np.float32) / 32768),
        audio_len=torch.from_numpy(UTTERANCES["signal_len"]),
        targets=torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
        target_len=torch.tensor([len(row) for row in tokens]),
        rows=torch.arange(2),
        prompt_len=torch.tensor([row.prompt_len for row in rows]),
    )
    return task, wanted, batch


@pytest.mark.parametrize("name", ["canary2", "post"])
def test_it_computes_what_nemo_does(name, tmp_path):
    task, wanted, batch = loaded(name)
    tokens = [row[:n].tolist() for row, n in zip(batch.targets, batch.target_len.tolist(), strict=True)]
    assert tokens == wanted["inputs"] and batch.prompt_len.tolist() == wanted["prompt_len"]
    with torch.no_grad():
        out = task.output(batch)
        total, count = task.loss(batch)
    for i, (frames, length) in enumerate(zip(out.x_len.tolist(), batch.target_len.tolist(), strict=True)):
        states, scores = (torch.from_numpy(REFERENCE[f"{name}.{part}"][i]) for part in ("enc", "log_probs"))
        torch.testing.assert_close(out.x[i, :frames], states[:frames], atol=1e-4, rtol=0)
        torch.testing.assert_close(out.log_probs[i, : length - 1], scores[: length - 1], atol=1e-4, rtol=0)
    assert (total / count).item() == pytest.approx(wanted["loss"], rel=1e-4)
    heard = task.transcripts(out)
    assert [found.tokens for found in heard] == [[t for t in row if t != wanted["eos"]] for row in wanted["greedy"]]
    names = tensor_names(task.config_tree()["task"])
    assert set(names) == {f"head.{key}" for key in task.network.head.state_dict()}
    anemone.save(task, tmp_path / "ours")
    assert anemone.load(tmp_path / "ours").transcripts(out) == heard


def test_slots_are_asked_for_by_name():
    task, _, batch = loaded("post")
    audio = [batch.audio[0, :16_000].numpy()]
    assert task.transcribe(audio, language="de", punctuation=False, slots={"task": "translate"})
    with pytest.raises(ConfigError, match="`source_lang` must be one of en, de, but is 'fr' instead"):
        task.transcribe(audio, language="fr")
