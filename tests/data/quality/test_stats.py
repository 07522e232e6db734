"""Numbers about a data set: each against a plain count."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemone.data.columns import opened
from anemone.data.quality.alphabet import alphabet, odd
from anemone.data.quality.stats import stats, vocabulary


def column(texts):
    import pyarrow as pa

    return pa.chunked_array([pa.array(texts, pa.string())])


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=12))
def test_characters_and_words_are_counted(texts):
    found = alphabet(column(texts))
    assert {item.character: item.times for item in found} == Counter("".join(texts))
    assert all(item.row == next(i for i, text in enumerate(texts) if item.character in text) for item in found)
    simple = [text.replace("\x1c", "x") for text in texts]
    words = vocabulary(column(["a  b\ta", *["".join(c if c.isalpha() else " " for c in text) for text in simple]]))
    counts = Counter(
        ["a", "b", "a", *(w for t in simple for w in "".join(c if c.isalpha() else " " for c in t).split())]
    )
    assert (words["number"], words["different"]) == (counts.total(), len(counts))


def test_odd_characters_are_those_of_strange_scripts_and_invisible_ones():
    latin = ["the quick brown fox"] * 400
    assert set(odd(alphabet(column([*latin, "f\u043ex", "a\u200bb", "x\ufffd", "\ue000", "é", "1 €"])))) == {
        "\u043e", "\u200b", "\ufffd", "\ue000",
    }  # fmt: skip
    assert odd(alphabet(column(["a\u200bb"])))["\u200b"] == "an invisible character"
    assert not odd(alphabet(column(["привет"] * 20 + ["hello"])))
    assert not odd(alphabet(column(["日本語のテキスト", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"])))


def test_hours_speakers_and_recordings(manifest, folder):
    rows = [
        {"audio_filepath": str(folder / name), "duration": 1.0 + i, "text": "ab c", "speaker": "ann" if i < 2 else None}
        for i, name in enumerate(["good.wav", "good.flac", "stereo.wav", "missing.wav"])
    ]
    found = json.loads(json.dumps(stats(opened([manifest([*rows, "{oops"])]))))
    assert found["rows"] == 4 and found["left_out"] == 1 and found["hours"] == pytest.approx(10 / 3600)
    assert found["duration"]["mean"] == 2.5 and found["duration"]["quantiles"]["0.5"] == 2.5
    assert sum(found["duration"]["histogram"]["counts"]) == 4
    assert found["speakers"]["top"] == [{"name": "ann", "rows": 2, "hours": pytest.approx(3 / 3600)}]
    assert found["speakers"]["missing"] == 2
    assert found["recordings"]["opened"] == 4 and found["recordings"]["unreadable"] == 1
    assert found["recordings"]["format"] == {"WAV PCM_16": 2, "FLAC PCM_16": 1}
    assert found["recordings"]["channels"] == {"1": 2, "2": 1}
    assert found["words"] | {"top": 0} == {"number": 8, "different": 2, "once": 0, "top": 0}
    assert found["alphabet"][0] == {"character": "U+0020", "count": 4, "source": str(manifest([])), "line": 1}
    assert found["char_rate"]["quantiles"]["1"] == 4


def test_labels_take_the_place_of_texts(manifest):
    rows = [{"audio_filepath": "a.wav", "duration": 1.0, "label": "yes" if i else "no"} for i in range(3)]
    found = stats(opened([manifest(rows)]), headers=0)
    assert [item["name"] for item in found["labels"]["top"]] == ["yes", "no"]
    assert "alphabet" not in found and found["recordings"]["opened"] == 0


def test_an_infinite_rate_is_no_number_of_a_histogram():
    from anemone.data.quality.stats import spread

    found = spread(np.array([np.inf, np.nan]))
    assert found["mean"] is None and json.dumps(found)
