"""The report of an adaptation: both models on both domains, and the change."""

import json

import pytest
import soundfile

from anemone.errors import DataError
from anemone.testing import speech, tiny
from anemone.training.domains import before_and_after, table_of
from anemone.training.evaluation import evaluate


def test_both_models_are_measured_on_each_set(tmp_path):
    for name, text in (("old", "yes it is"), ("new", "no")):
        soundfile.write(tmp_path / f"{name}.wav", speech(0.6, seed=len(text)), 16_000)
        line = {"audio_filepath": f"{name}.wav", "duration": 0.6, "text": text}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    first, second = tiny("recognition"), tiny("recognition", seed=1)
    sets = {name: [tmp_path / f"{name}.jsonl"] for name in ("old", "new")}
    changes = before_and_after(first, second, sets)
    losses = {c.set: (c.before, c.after) for c in changes if c.metric == "loss"}
    for name, pair in losses.items():
        assert pair == tuple(evaluate(task, sets[name])["loss"] for task in (first, second))
    lines = table_of(changes, ["loss", "wer"]).splitlines()
    assert len(lines) == 6 and lines[2].startswith("| old | loss |") and lines[2].endswith("% |")
    with pytest.raises(DataError, match="at least one domain"):
        before_and_after(first, second, {})
