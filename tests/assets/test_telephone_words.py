"""The recorded words are complete, audible, small, and no take of a test prompt is heard in training."""

import json
from collections import Counter
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

FOLDER = Path(__file__).parents[2] / "anemone/assets/telephone_words"
SPLITS = ("train", "dev", "test")
RATE = 16_000
SAME_RECORDING = 0.65  # recipes/telephone_words/divide.py: 0.55 before Opus, which levels the fine structure


@cache
def rows(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text("utf-8").splitlines()]


@cache
def wave(name: str) -> np.ndarray:
    samples, rate = soundfile.read(FOLDER / name, dtype="float32")
    assert rate == RATE
    return samples


def take(row: dict[str, Any]) -> np.ndarray:
    start = round(row["offset"] * RATE)
    return wave(row["audio_filepath"])[start : start + round(row["duration"] * RATE)]


def test_each_of_60_words_or_more_has_12_takes_and_some_in_every_split():
    counts = {split: Counter(row["label"] for row in rows(split)) for split in SPLITS}
    total = sum(counts.values(), Counter())
    assert len(total) >= 60
    assert {label.partition(":")[0] for label in total} == {"en", "es", "fr", "it", "ru"}
    for label, count in total.items():
        assert count >= 12, label
        assert counts["train"][label] >= 8 and counts["dev"][label] >= 1 and counts["test"][label] >= 2, label


def test_labels_agree_with_language_and_voice():
    voices = {}
    for row in (row for split in SPLITS for row in rows(split)):
        assert row["label"] == row["label"].lower()
        assert row["label"].startswith(row["lang"] + ":") and row["audio_filepath"] == row["lang"] + ".opus"
        assert voices.setdefault(row["lang"], row["speaker"]) == row["speaker"]


def test_every_take_decodes_and_is_a_sound_between_silences():
    for row in (row for split in SPLITS for row in rows(split)):
        samples = take(row)
        assert len(samples) == round(row["duration"] * RATE) and 0.1 <= row["duration"] <= 1.0, row
        assert 0.01 < np.abs(samples).max() <= 1, row
        start = round(row["offset"] * RATE)
        gap = wave(row["audio_filepath"])[start - RATE // 8 : start - RATE // 50]
        assert np.abs(gap).max() < 0.1 * np.abs(samples).max(), row


def test_takes_do_not_overlap():
    spans = sorted(
        (row["audio_filepath"], row["offset"], row["offset"] + row["duration"]) for s in SPLITS for row in rows(s)
    )
    for (file, _, end), (next_file, start, _) in pairwise(spans):
        assert file != next_file or start - end > 0.19


def test_reading_by_offset_equals_slicing_the_whole_file():
    """An Opus decoder starts afresh at a seek: 19 of 20 takes come out equal, the others within 0.005 of full scale."""
    equal = []
    for row in rows("dev")[::4]:
        with soundfile.SoundFile(FOLDER / row["audio_filepath"]) as file:
            file.seek(round(row["offset"] * RATE))
            samples = file.read(round(row["duration"] * RATE), dtype="float32")
        assert np.abs(samples - take(row)).max() < 5e-3, row
        equal.append(np.array_equal(samples, take(row)))
    assert np.mean(equal) > 0.8


def test_no_prompt_and_no_group_is_in_two_splits():
    for key in ("prompt", "group"):
        found = {split: {(row["lang"], row[key]) for row in rows(split)} for split in SPLITS}
        for one, other in combinations(SPLITS, 2):
            assert not found[one] & found[other]


@pytest.mark.parametrize("lang", ["en", "es", "fr", "it", "ru"])
def test_no_recording_is_in_two_splits(lang):
    """Pre-emphasised waveforms: two takes spoken apart correlate below the limit, one recording cut twice above."""
    spectra: dict[tuple[str, str], list[np.ndarray]] = {}
    for split in SPLITS:
        for row in rows(split):
            if row["lang"] == lang:
                sharp = np.diff(take(row))
                spectrum = np.fft.rfft(sharp / np.linalg.norm(sharp), 1 << 15).astype(np.complex64)
                spectra.setdefault((row["label"], split), []).append(spectrum)
    for label in {label for label, _ in spectra}:
        for one, other in combinations(SPLITS, 2):
            those = np.stack(spectra[label, one])
            for spectrum in spectra[label, other]:
                assert np.fft.irfft(those * spectrum.conj()).max() < SAME_RECORDING, label


def test_the_folder_is_below_6_megabytes():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000


def test_the_readme_states_the_counts():
    text = (FOLDER / "README.md").read_text("utf-8")
    for lang in ("en", "es", "fr", "it", "ru"):
        counts = [sum(row["lang"] == lang for row in rows(split)) for split in SPLITS]
        words = len({row["label"] for row in rows("train") if row["lang"] == lang})
        assert f"| {words} | {counts[0]} | {counts[1]} | {counts[2]} |" in text
