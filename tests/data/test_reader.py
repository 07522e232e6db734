"""What a micro-batch is made of: text alone, or a row's further columns too."""

import json

import numpy as np
import pytest
import soundfile

from anemone.config import decode
from anemone.data.loader import Loader, SpeechDataConfig
from anemone.data.manifest import Index
from anemone.data.targets import RowEncode, Target
from anemone.errors import DataError

LANGUAGES = ["en", "fr"]


def by_language(text: str, row: dict[str, str | None]) -> Target:
    """A prompt of the number of the language, and of 9 for punctuation; then the length of the text."""
    if row["lang"] not in LANGUAGES:
        raise DataError(f"no language {row['lang']}")
    prompt = [LANGUAGES.index(row["lang"])] + [9] * bool(row["pnc"])
    return Target([*prompt, len(text)], len(prompt))


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path / "cache"))
    soundfile.write(tmp_path / "a.wav", np.zeros(1600, np.float32), 16_000)
    rows = [{"text": "ab", "lang": "fr"}, {"text": "abc", "lang": "en", "pnc": True}, {"text": "a", "lang": "xx"}]
    lines = [json.dumps({"audio_filepath": "a.wav", "duration": 0.1, **row}) for row in rows]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    return tmp_path / "m.jsonl"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_further_columns_reach_the_task(manifest, num_workers):
    config = decode(SpeechDataConfig, {"num_workers": num_workers})
    loader = Loader(
        Index.read([manifest], target="text"), config, RowEncode(("lang", "pnc"), by_language), training=False
    )
    ((batch,),) = loader
    found = sorted(zip(batch.rows.tolist(), batch.targets.tolist(), batch.prompt_len.tolist(), strict=True))
    assert found == [(0, [1, 2, 0], 1), (1, [0, 9, 3], 2)]
    assert [problem.cause for problem in loader.problems] == ["no language xx"]
    assert batch.item(1).prompt_len.tolist() == batch.prompt_len.tolist()[1:]
    assert batch.to("meta").prompt_len.is_meta


def test_text_alone_has_no_prompts(manifest):
    loader = Loader(Index.read([manifest], target="text"), SpeechDataConfig(), lambda text: [len(text)], training=False)
    ((batch,),) = loader
    assert sorted(batch.targets[:, 0].tolist()) == [1, 2, 3] and batch.prompt_len is None
    assert batch.item(0).prompt_len is None and batch.to("meta").prompt_len is None


def test_columns_that_no_line_has_are_null(manifest):
    index = Index.read([manifest], target="text")
    assert index.values([1, 0], ("lang", "task")) == [{"lang": "en", "task": None}, {"lang": "fr", "task": None}]
    assert index.values(np.array([2]), ()) == [{}]
