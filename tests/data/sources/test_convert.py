"""From every format to every other: ids, texts, speakers, offsets and samples stay."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from anemone.data.files import ASSETS
from anemone.data.problems import Problem
from anemone.data.sources import SOURCES, Utterance, source
from anemone.data.sources.convert import convert, read
from anemone.data.sources.pieces import cut, seconds
from anemone.testing import speech

CODINGS = {
    "mono.wav": (16_000, 1, "PCM_16"),
    "low.flac": (8_000, 1, "PCM_16"),
    "deep.wav": (22_050, 1, "PCM_24"),
    "float.wav": (16_000, 1, "FLOAT"),
    "two.wav": (16_000, 2, "PCM_16"),
    "lossy.ogg": (16_000, 1, "VORBIS"),
}
TARGETS = {
    "jsonl": "set.jsonl.gz",
    "tarred": "tarred",
    "kaldi": "kaldi",
    "lhotse": "cuts.jsonl",
    "shar": "shar",
    "csv": "set.csv",
    "audiofolder": "folder",
    "parquet": "set.parquet",
    "librispeech": "librispeech",
}
CUTTING = {"shar", "audiofolder", "parquet", "librispeech"}  # whose recordings are utterances
LETTERS = st.characters(exclude_categories=["C", "Z"], include_characters=" ")
TEXTS = st.text(LETTERS, min_size=1, max_size=12).map(lambda text: " ".join(text.split())).filter(bool)
MILLISECONDS = st.integers(0, 200).map(lambda ms: ms / 1000)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Half a second each, of six codings."""
    folder = tmp_path_factory.mktemp("recordings")
    for seed, (name, (rate, channels, subtype)) in enumerate(CODINGS.items()):
        audio = np.stack([speech(0.5, rate=rate, seed=seed + i) for i in range(channels)], axis=1)
        soundfile.write(folder / name, audio, rate, subtype=subtype)
    return folder


@st.composite
def utterance(draw: st.DrawFn) -> Utterance:
    """With or without offset and length, of any coding; its recording is a name."""
    audio = draw(st.sampled_from(list(CODINGS)))
    offset = draw(st.just(0.0) | MILLISECONDS)
    length = draw(st.none() | st.just(0.5 - offset) | st.integers(20, 290).map(lambda ms: ms / 1000))
    name = draw(st.from_regex(r"[a-z0-9][a-zA-Z0-9_-]{0,12}", fullmatch=True))
    channel = draw(st.sampled_from([0, 1])) if audio == "two.wav" else None
    return Utterance(name, audio, offset, length, draw(TEXTS), None, draw(st.sampled_from(["ann", "böb"])), channel)


SETS = st.lists(utterance(), min_size=1, max_size=5, unique_by=lambda each: each.id)


def good(path: str | Path, form: str | None = None) -> dict[str, Utterance]:
    """The utterances of a set by id; none may be a problem."""
    found = list(read(path, form))
    assert not [item for item in found if isinstance(item, Problem)], found
    assert len({item.id for item in found}) == len(found)
    return {item.id: item for item in found}


def sound(each: Utterance) -> tuple[int, np.ndarray]:
    """Rate and samples of an utterance, whatever it is stored as."""
    samples, rate, _ = cut(each._replace(duration=seconds(each)))
    return rate, samples.ravel() / {"int16": 2**15, "int32": 2**31}.get(samples.dtype.name, 1)


def through(folder: Path, ours: list[Utterance], first: str, second: str) -> None:
    """Converts a set to one format, that to another, and compares."""
    path = folder / "ours.jsonl"
    assert not source("jsonl").write(ours, path)
    for kind in (first, second):
        target = folder / f"{kind}-{path.name}" / TARGETS[kind]
        assert convert([path], target, to=kind) == (len(ours), [])
        path = target
        theirs = good(path, kind)
        assert sorted(theirs) == sorted(each.id for each in ours)
        for each in ours:
            other = theirs[each.id]
            assert (each.text, each.speaker) == (other.text, other.speaker)
            (rate, samples), (other_rate, others) = sound(each), sound(other)
            assert rate == other_rate
            # Kaldi reads 16 bits and no more, so others are rounded for it
            np.testing.assert_allclose(others, samples, atol=2**-15 if "kaldi" in {first, second} else 0, rtol=0)
            if not {first, second} & CUTTING:
                assert other.offset == pytest.approx(each.offset, abs=1e-9)


@settings(max_examples=40)
@given(ours=SETS, kinds=st.tuples(st.sampled_from(list(SOURCES)), st.sampled_from(list(SOURCES))))
def test_a_round_trip_keeps_everything(recordings, ours, kinds):
    ours = [each._replace(audio=str(recordings / each.audio)) for each in ours]
    with tempfile.TemporaryDirectory() as folder:
        through(Path(folder), ours, *kinds)


@pytest.mark.parametrize("first", list(SOURCES))
def test_every_format_becomes_every_other(recordings, tmp_path, first):
    ours = [
        Utterance(f"u{i}", str(recordings / name), 0.1 * (i % 2), [None, 0.25][i % 2], f"text {i}", None, "ann")
        for i, name in enumerate(CODINGS)
    ]
    ours[4] = ours[4]._replace(channel=1)
    for second in SOURCES:
        (tmp_path / second).mkdir()
        through(tmp_path / second, ours, first, second)


def test_what_lies_in_the_package_is_found(tmp_path):
    done = convert(["assets/telephone_words/dev.jsonl"], tmp_path / "dev.csv")
    assert done.rows == len((ASSETS / "telephone_words/dev.jsonl").read_text().splitlines())
    assert not done.problems and len(list(read("assets/telephone_words/dev.jsonl"))) == done.rows
