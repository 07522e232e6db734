"""Validation: each fault is found by its rule and by no other, in lines, recordings and between sets."""

import json
import re

import numpy as np
import pytest

from anemone.data.columns import Columns, opened
from anemone.data.quality.page import page
from anemone.data.quality.rules import RULES
from anemone.data.quality.validate import validate
from anemone.errors import ConfigError

from .conftest import FAULTS


def broken(report, name="set"):
    """Row -> rules, of one set."""
    rules: dict[int, set[str]] = {}
    for found in report.found[name]:
        for row in found.rows.tolist():
            rules.setdefault(row, set()).add(found.rule)
    return rules


@pytest.mark.parametrize("jobs", [1, 3])
def test_each_fault_of_a_recording_is_found_by_its_rule_alone(faulty, jobs):
    report = validate({"set": faulty}, near=True, jobs=jobs)
    found = broken(report)
    assert {name: found.get(row, set()) for row, name in enumerate(FAULTS)} == FAULTS
    errors = {row for row, rules in found.items() if any(RULES[rule].severity == "error" for rule in rules)}
    assert report.good("set").tolist() == [row for row in range(len(FAULTS)) if row not in errors]
    assert report.number("error") == len(errors) == 9


def test_findings_name_line_recording_and_measure(faulty, folder):
    report = validate({"set": faulty})
    details = {(finding.rule, finding.line): finding for finding in report.findings()}
    lines = {name: row + 1 for row, name in enumerate(FAULTS)}
    copy = details["duplicate-audio", lines["copy.flac"]]
    assert copy.audio == str(folder / "copy.flac") and copy.detail == f"as {folder / 'm.jsonl'}:1"
    assert details["shorter-than-declared", lines["short.wav"]].detail == "1.00 s declared, 0.50 s there"
    assert details["other-rate", lines["slow.wav"]].detail == "8000 Hz, not 16000"
    assert details["dc-offset", lines["dc.wav"]].detail == "mean 0.100"
    assert "Format not recogni" in details["undecodable", lines["noise.wav"]].detail
    assert details["undecodable", lines["cut.flac"]].detail == "decoding breaks off"
    assert re.fullmatch(r"-\d\d dB", details["silent", lines["silent.wav"]].detail)


def test_pieces_of_one_file_are_no_duplicates_and_their_file_may_be_longer(manifest, spoken):
    rows = [{"audio_filepath": str(spoken), "duration": 0.5, "offset": i / 2, "text": f"t {i}"} for i in range(4)]
    report = validate({"set": opened([manifest(rows)])})
    assert not broken(report)
    rows[3]["offset"] = 1.0
    assert broken(validate({"set": opened([manifest(rows, "b.jsonl")])})) == {3: {"duplicate-piece", "duplicate-audio"}}


def test_a_channel_that_is_chosen_is_heard_alone(manifest, folder):
    row = {"audio_filepath": str(folder / "stereo.wav"), "duration": 1.0}
    rows = [row | {"channel": i, "text": str(i), "offset": 0.001 * i} for i in range(3)]
    found = broken(validate({"set": opened([manifest(rows)])}, ignore=["duplicate-piece"]))
    assert found == {2: {"undecodable"}}


def texts(*some: str) -> list[dict]:
    return [{"audio_filepath": f"{i}.wav", "duration": 1.0, "text": text} for i, text in enumerate(some)]


def test_each_fault_of_a_text_is_found(manifest):
    usual = [f"some words of the usual {'kind ' * (i % 3)}{i}" for i in range(1200)]
    odd = ["", "some  words are here", "so\u200bme words are here", "c\u0327a va bien ici", "s\u043eme words are here",
           "bad \ufffd words are here", "tab\twords are here", usual[0], "x" * 900]  # fmt: skip
    found = broken(validate({"set": opened([manifest(texts(*usual, *odd))])}, audio=False))
    assert [found.pop(1200 + i) for i in range(len(odd))] == [
        {"empty-text"},
        {"untidy-space"},
        {"odd-character"},
        {"not-normalised"},
        {"odd-character"},
        {"odd-character"},
        {"odd-character", "untidy-space"},
        {"duplicate-text"},
        {"speaking-rate"},
    ]
    assert not found


def test_keys_and_ids(manifest):
    rows = [
        row | {"id": f"u{i}", "speaker": "ann", "tag": None}
        for i, row in enumerate(texts(*"abcdefghijklmnopqrstuvwxyz"))
    ]
    rows[7]["id"], rows[9]["speaker"] = "u3", None
    for row in rows[::2]:
        row["tag"] = "x"
    report = validate({"set": opened([manifest(rows)])}, audio=False)
    assert broken(report) == {7: {"duplicate-id"}, 9: {"missing-key"}}
    assert [finding.detail for finding in report.findings("missing-key")] == ["speaker"]


def test_what_sets_have_in_common_is_found_in_the_later_one(manifest, folder):
    row = {"duration": 1.0, "offset": 0.0}
    first = [
        row | {"audio_filepath": str(folder / "good.wav"), "text": "one", "speaker": "ann"},
        row | {"audio_filepath": str(folder / "good.flac"), "text": "two", "speaker": "bea"},
    ]
    second = [
        row | {"audio_filepath": str(folder / "copy.flac"), "text": "three", "speaker": "eva"},
        row | {"audio_filepath": str(folder / "good.flac"), "text": "four", "speaker": "eva"},
        row | {"audio_filepath": str(folder / "quiet.wav"), "text": "two", "speaker": "eva"},
        row | {"audio_filepath": str(folder / "dc.wav"), "text": "five", "speaker": "ann"},
    ]
    sets = {"train": opened([manifest(first, "a.jsonl")]), "test": opened([manifest(second, "b.jsonl")])}
    report = validate(sets, ignore=["quiet", "dc-offset"])
    assert broken(report, "test") == {
        0: {"audio-in-sets"},
        1: {"audio-in-sets", "piece-in-sets"},
        2: {"text-in-sets"},
        3: {"speaker-in-sets"},
    }
    assert not broken(report, "train")
    assert (
        next(report.findings("speaker-in-sets")).detail == f'"ann" is in `train` too, as {manifest(first, "a.jsonl")}:1'
    )
    assert report.good("test").tolist() == [2, 3]


def test_unusable_lines_count_and_labels_are_no_texts(manifest):
    rows = [
        {"audio_filepath": "a.wav", "duration": 1, "label": "yes"},
        {"audio_filepath": "b.wav", "duration": 1, "label": "yes"},
    ]
    index = opened([manifest([*rows, "{oops"])])
    assert Columns(index).target == "label" and "text" not in Columns(index)
    report = validate({"set": index}, audio=False)
    assert report.counts == {"unusable-line": 1}
    assert "is not JSON" in next(report.findings()).detail
    assert validate({"set": index}, audio=False, ignore=["unusable-line"]).counts == {}


def test_unknown_rules_are_named(faulty):
    with pytest.raises(ConfigError, match="Did you mean `clipped`"):
        validate({"set": faulty}, ignore=["cliped"])


def test_the_page_holds_no_script_and_nothing_from_elsewhere(manifest):
    bad = "<script>alert(1)</script>\u202e\"' onload=x javascript:"
    rows = [{"audio_filepath": f"<img src=//x/{i}>.wav", "duration": 1.0, "text": bad} for i in range(3)]
    report = validate({"<b>set": opened([manifest(rows)])})
    text = page(report.as_dict(), "<script>")
    assert "<script" not in text and "<img" not in text and "<b>" not in text and "\u202e" not in text
    assert not re.search(r"src=\"|href=\"[^#]", text) and "http://" not in text and "https://" not in text
    assert "&lt;script&gt;" in text and "U+202E" in text and "default-src 'none'" in text
    assert text.count("<svg") == 2
    assert json.loads(json.dumps(report.as_dict()))["rules"]["missing-file"]["count"] == 3


def test_memory_of_measures_is_bounded_and_large_promises_cost_nothing(faulty):
    from anemone.data.quality.sound import MEASURE, measure

    assert MEASURE.itemsize <= 90
    seen = []
    assert len(measure(faulty, progress=seen.append)) == sum(seen) == len(FAULTS)


def test_near_duplicates_of_many(manifest):
    from anemone.data.quality.copies import near_pairs

    draw = np.random.default_rng(0)
    outlines = draw.integers(1, 2**63, 20_000, dtype=np.uint64)
    for one, two, bits in ((5, 900, (1, 40)), (7, 19_000, (0, 20, 63)), (11, 12, ())):
        outlines[two] = outlines[one] ^ np.bitwise_or.reduce(
            [np.uint64(1) << np.uint64(b) for b in bits] or [np.uint64(0)]
        )
    assert near_pairs(outlines, np.ones(20_000)).tolist() == [[12, 11], [900, 5], [19_000, 7]]
