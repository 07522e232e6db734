"""Lines to columns: both ways give the same, and every odd line is named with its cause."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anemone.data import jsonlines
from anemone.data.jsonlines import parse

FOLDER = Path("/data/set")
GOOD = {"audio_filepath": "a.wav", "duration": 1.5, "text": "ein Wort"}


def lines(*rows: dict | str | bytes) -> bytes:
    texts = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
    return b"".join((text.encode() if isinstance(text, str) else text) + b"\n" for text in texts)


def table(*rows: dict | str | bytes, target: str = "text") -> list[dict]:
    return parse(lines(*rows), FOLDER, target)[0].to_pylist()


def test_a_line_becomes_the_index_s_columns():
    assert table(GOOD | {"offset": 2}) == [
        {"@audio": "/data/set/a.wav", "@offset": 2.0, "@duration": 1.5, "@target": "ein Wort", "@line": 1}
    ]


@pytest.mark.parametrize("more", [[], ["{"], [GOOD | {"_skipme": "no"}]])
def test_a_line_that_asks_to_be_skipped_is_passed_over(more):
    good, causes = parse(lines(GOOD | {"_skipme": True}, GOOD | {"_skipme": False}, GOOD, *more), FOLDER, "text")
    assert good["@line"].to_pylist()[:2] == [2, 3] and "_skipme" not in good.column_names
    assert [line for line, _ in causes] == ([4] if more == ["{"] else [])


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.wav", "/data/set/a.wav"),
        ("b/a.wav", "/data/set/b/a.wav"),
        ("../a.wav", "/data/set/../a.wav"),
        ("/abs/a.wav", "/abs/a.wav"),
        ("~/a.wav", "/home/me/a.wav"),
        ("~a.wav", "/data/set/~a.wav"),
        ("ä ö.wav", "/data/set/ä ö.wav"),
    ],
)
def test_paths_are_relative_to_the_manifest(path, expected, odd, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    rows = table(GOOD | {"audio_filepath": path}, *(["{"] if odd else []))
    assert [row["@audio"] for row in rows] == [expected]


def test_aliases_are_read():
    row = {"audio_filename": "b.wav", "duration": 1, "command": "yes"}
    assert [(r["@audio"], r["@target"]) for r in table(row, target="label")] == [("/data/set/b.wav", "yes")]
    both = {"audio_filepath": "a.wav", "audio_filename": "b.wav", "duration": 1, "label": "no", "command": "yes"}
    assert [(r["@audio"], r["@target"]) for r in table(both, row, target="label")] == [
        ("/data/set/a.wav", "no"),
        ("/data/set/b.wav", "yes"),
    ]


def test_labels_may_be_numbers():
    rows = [{"audio_filepath": "a.wav", "duration": 1, "label": label} for label in (3, 12)]
    assert [row["@target"] for row in table(*rows, target="label")] == ["3", "12"]
    rows.append({"audio_filepath": "a.wav", "duration": 1, "label": "x"})
    assert [row["@target"] for row in table(*rows, target="label")] == ["3", "12", "x"]


def test_an_offset_may_be_null_or_missing():
    rows = table(GOOD, GOOD | {"offset": None}, GOOD | {"offset": 0.25})
    assert [row["@offset"] for row in rows] == [0.0, 0.0, 0.25]


def test_an_empty_text_is_a_text():
    assert table(GOOD | {"text": ""})[0]["@target"] == ""


FURTHER = {
    "lang": "de",
    "speaker": 7,
    "big": 2**60 + 1,
    "huge": 2**70,
    "score": 0.5,
    "clean": True,
    "tags": ["a", "b"],
    "meta": {"x": 1, "y": {"z": [1.5]}},
    "none": None,
    "day": "2020-01-01",
    "days": ["2020-01-01"],
    "time": "2020-01-01T10:00:00",
    "audio": "mine",
    "line": 99,
    "source": "corpus",
    "target": "t",
    "label": "l",
    "empty": {},
    "nothing": [],
    "": "no name",
}


@pytest.mark.parametrize("key", FURTHER)
def test_a_further_key_is_kept_as_it_is(key):
    value = FURTHER[key]
    for rows in ([GOOD | {key: value}] * 2, [GOOD | {key: value}, GOOD, "{"]):
        kept = [row[key] for row in table(*rows)]
        assert kept[0] == (str(value) if key == "huge" else value)
        assert kept[1] == (kept[0] if rows[1] is not GOOD else None)


def test_a_key_with_two_types_becomes_text():
    rows = table(*[GOOD | {"k": value} for value in (1, "a", [1, {"b": 2}], None, True)])
    assert [row["k"] for row in rows] == ["1", "a", '[1, {"b": 2}]', None, "true"]


BAD = {
    "not JSON": ('{"audio_filepath": "a.wav", "duration": 1', r"is not JSON: .* at character 42"),
    "trailing comma": ('{"duration": 1,}', r"is not JSON"),
    "single quotes": ("{'duration': 1}", r"is not JSON"),
    "a comment": ("# comment", r"is not JSON"),
    "two objects": (json.dumps(GOOD) * 2, r"is not JSON: Extra data at character 65"),
    "a list": ("[1, 2]", r"must be an object in braces, but is list instead"),
    "a number": ("7", r"must be an object in braces, but is int instead"),
    "not UTF-8": (b'{"text": "\xff"}', r"is not Unicode text: .*0xff"),
    "half a pair": (json.dumps(GOOD)[:-1] + ', "k": "\\ud800"}', r"is not Unicode text: .*surrogates not allowed"),
    "endless nesting": ("[" * 100_000, r"is not JSON"),
    "endless digits": ('{"n": ' + "1" * 5000 + "}", r"is not JSON"),
    "no audio": ({"duration": 1, "text": "a"}, r"lacks `audio_filepath`"),
    "null audio": (GOOD | {"audio_filepath": None}, r"lacks `audio_filepath`"),
    "empty audio": (GOOD | {"audio_filepath": ""}, r"`audio_filepath` must be a path, but is '' instead"),
    "audio is a number": (GOOD | {"audio_filepath": 5}, r"`audio_filepath` must be a string, but is 5 instead"),
    "no duration": ({"audio_filepath": "a.wav", "text": "a"}, r"lacks `duration`"),
    "null duration": (GOOD | {"duration": None}, r"lacks `duration`"),
    "zero duration": (GOOD | {"duration": 0}, r"`duration` must be above 0 seconds, but is 0.0 instead"),
    "negative duration": (GOOD | {"duration": -1.5}, r"`duration` must be above 0 seconds, but is -1.5 instead"),
    "no number": (GOOD | {"duration": float("nan")}, r"`duration` must be above 0 seconds, but is nan instead"),
    "no end": (GOOD | {"duration": float("inf")}, r"`duration` must be above 0 seconds, but is inf instead"),
    "duration is text": (GOOD | {"duration": "1.5"}, r"`duration` must be a number of seconds, but is '1.5' instead"),
    "duration is true": (GOOD | {"duration": True}, r"`duration` must be a number of seconds, but is True instead"),
    "negative offset": (GOOD | {"offset": -0.5}, r"`offset` must be 0 seconds or more, but is -0.5 instead"),
    "offset is text": (GOOD | {"offset": "x"}, r"`offset` must be a number of seconds, but is 'x' instead"),
    "no text": ({"audio_filepath": "a.wav", "duration": 1}, r"lacks `text`"),
    "text is a number": (GOOD | {"text": 5}, r"`text` must be a string, but is 5 instead"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_the_others_go_on(name):
    bad, cause = BAD[name]
    good, causes = parse(lines(GOOD, "", bad, GOOD | {"text": "b"}), FOLDER, "text")
    assert good["@target"].to_pylist() == ["ein Wort", "b"]
    assert good["@line"].to_pylist() == [1, 4]
    ((line, said),) = causes
    assert line == 3
    assert re.search(cause, said), said


def test_a_manifest_of_bad_lines_alone_has_no_rows():
    good, causes = parse(lines("{", GOOD | {"duration": -1}), FOLDER, "text")
    assert len(good) == 0
    assert [line for line, _ in causes] == [1, 2]


@pytest.mark.parametrize("data", [b"", b"\n \n\r\n"])
def test_an_empty_manifest_has_no_rows(data):
    good, causes = parse(data, FOLDER, "text")
    assert len(good) == 0 and not causes
    assert good.column_names == list(jsonlines.OWN)


@pytest.mark.parametrize(
    "data",
    [
        lines(GOOD).replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + lines(GOOD),
        lines(GOOD)[:-1],
        b"\n\n" + lines(GOOD),
        b"  " + lines(GOOD),
        lines(GOOD)[:-1] + b"  \n",
    ],
)
def test_line_ends_marks_and_blanks_do_not_matter(data):
    good, causes = parse(data, FOLDER, "text")
    assert good["@target"].to_pylist() == ["ein Wort"] and not causes
    assert good["@line"].to_pylist() == [3 if data[0] == ord("\n") else 1]


def test_the_usual_manifest_is_read_the_fast_way():
    rows = [GOOD | {"offset": i, "speaker": i, "lang": None, "tags": ["a"]} for i in range(5)]
    assert jsonlines._fast(lines(*rows, "", GOOD), "text") is not None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.dates().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=4,
)
seconds = st.one_of(st.floats(-1, 5), st.integers(-1, 5), st.none(), st.sampled_from(["1", True]))
row = st.fixed_dictionaries(
    {
        "audio_filepath": st.sampled_from(["a.wav", "b/c.flac"]),
        "duration": st.floats(0.1, 9),
        "text": st.text(max_size=8),
    },
    optional={"offset": st.none() | st.floats(0, 9), "k": values, "lang": st.sampled_from(["de", "2020-01-01"])},
)
odd_row = st.fixed_dictionaries({}, optional={"audio_filepath": values, "duration": seconds, "text": values})
text_line = st.one_of(
    *[row.map(json.dumps)] * 4,
    odd_row.map(json.dumps),
    row.map(lambda r: json.dumps(r, ensure_ascii=False)).filter(lambda t: "\n" not in t),
    st.sampled_from(["", " ", "{}", "{}{}", "}", '{"a":', '{"duration": {', "null"]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(text_line, max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_the_fast_way_gives_what_the_exact_way_gives_or_nothing(texts, end):
    data = end.join(texts).encode()
    fast = jsonlines._fast(data, "text")
    if fast is None:
        return
    exact = jsonlines._exact(data, "text")
    assert not exact[1]

    def content(table: pa.Table) -> list[dict]:
        checked, causes = jsonlines._check(table, "text")
        return [*({k: v for k, v in r.items() if v is not None} for r in without_nulls(checked.to_pylist())), *causes]

    assert content(fast[0]) == content(exact[0])


def without_nulls(value: object) -> object:
    """A column of objects has all of their keys in each row; those a row has not are null."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value
