"""Data directories out: what is written passes Kaldi's rules and comes back as it was."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anemone.data.audio import load_audio
from anemone.data.kaldi import check_kaldi, read_kaldi, write_kaldi
from anemone.data.kaldi.places import read_table
from anemone.data.sources import Utterance
from anemone.errors import DataError

RATE = 8_000
DRAW = np.random.default_rng(0)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Path -> samples (S, channels) of recordings of several kinds; the last has two channels."""
    folder = tmp_path_factory.mktemp("recordings")
    found = {}
    for name, channels in (("a.wav", 1), ("b b.flac", 1), ("c.wav:1", 1), ("d.wav", 2)):
        array = DRAW.integers(-(2**15), 2**15, (RATE, channels), np.int16)
        soundfile.write(folder / name, array, RATE, format="FLAC" if "flac" in name else "WAV")
        found[str(folder / name)] = array / 2**15
    return found


def heard(utterance: Utterance) -> np.ndarray:
    options = {"offset": utterance.offset, "duration": utterance.duration, "channel": utterance.channel}
    return load_audio(utterance.audio, RATE, **options)


NAMES = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), min_size=0, max_size=6), st.from_regex(r"\A[ab#-]{1,3}\Z")
)
TEXTS = st.one_of(st.none(), st.text(st.characters(exclude_categories=("Cs",)), max_size=12), st.just("a <s> b"))


@st.composite
def sets(draw, paths):
    ids = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    return [
        Utterance(
            id=name,
            audio=(audio := draw(st.sampled_from(paths))),
            offset=(offset := draw(st.sampled_from([0.0, 0.1, 0.123456, 1e-5]))),
            duration=draw(st.sampled_from([1.0 - offset, 0.25, 1 / 3])) if draw(st.booleans()) else 0.5,
            text=draw(TEXTS),
            label=draw(TEXTS),
            speaker=draw(st.one_of(st.none(), NAMES, st.just(name))),
            channel=draw(st.sampled_from([None, 0, 1])) if audio.endswith("d.wav") else None,
            extra=draw(
                st.dictionaries(
                    st.sampled_from(["gender", "lang", "recording", "x"]), st.sampled_from(["f", "m", 3, "r s"])
                )
            ),
        )
        for name in ids
    ]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_is_written_passes_the_rules_of_kaldi_and_comes_back(recordings, tmp_path_factory, data):
    utterances = data.draw(sets(list(recordings)))
    folder = tmp_path_factory.mktemp("kaldi")
    assert write_kaldi(iter(utterances), folder) == []
    assert check_kaldi(folder, text=any(u.text is not None for u in utterances)) == []
    back = {u.id: u for u in read_kaldi(folder)}
    assert len(back) == len(utterances)
    for u in utterances:
        found = back[u.id]
        assert found._replace(audio="", extra={}) == u._replace(audio="", extra={})
        assert {key: found.extra.get(key) for key in u.extra} == u.extra
        assert np.array_equal(heard(found), heard(u))


def simple(recordings, **changes) -> Utterance:
    return Utterance("ann-1", next(iter(recordings)), 0.0, 1.0, "hello", None, "ann")._replace(**changes)


def test_an_ordinary_set_looks_ordinary(recordings, tmp_path):
    path = next(iter(recordings))
    rows = [
        simple(recordings, id="bob-1", speaker="bob", text="good bye", audio=list(recordings)[3]),
        simple(recordings),
    ]
    write_kaldi(rows, tmp_path / "d")
    text = {p.name: p.read_text() for p in (tmp_path / "d").iterdir()}
    assert text == {
        "wav.scp": f"ann-1 {path}\nbob-1 {rows[0].audio}\n",
        "text": "ann-1 hello\nbob-1 good bye\n",
        "utt2spk": "ann-1 ann\nbob-1 bob\n",
        "spk2utt": "ann ann-1\nbob bob-1\n",
        "utt2dur": "ann-1 1.0\nbob-1 1.0\n",
    }


def test_parts_become_segments_and_channels_recordings_of_their_own(recordings, tmp_path):
    stereo = list(recordings)[3]
    rows = [simple(recordings, id=f"ann-{c}", audio=stereo, channel=c, offset=0.25, duration=0.5) for c in (0, 1)]
    write_kaldi(rows, tmp_path / "d")
    assert (tmp_path / "d/segments").read_text() == "ann-0 d 0.25 0.75\nann-1 d-2 0.25 0.75\n"
    assert (tmp_path / "d/reco2file_and_channel").read_text() == "d d A\nd-2 d-2 B\n"


def test_recordings_that_kaldi_cannot_read_are_copied(recordings, tmp_path):
    wav, flac, colon, _ = recordings
    for copy, copied in (("needed", 2), ("all", 3), ("never", 0)):
        folder = tmp_path / copy
        write_kaldi(
            [simple(recordings, id=f"ann-{i}", audio=p) for i, p in enumerate((wav, flac, colon))], folder, copy=copy
        )
        assert len(list(folder.glob("wav/*.wav"))) == copied
        for entry, path in zip(read_table(folder / "wav.scp")[0].values(), (wav, flac, colon), strict=True):
            if copy != "never":
                array, rate = soundfile.read(entry.value, always_2d=True)
                assert rate == RATE and np.array_equal(array, recordings[path])


def test_a_recording_in_an_archive_is_named_by_its_offset(recordings, tmp_path):
    path = next(iter(recordings))
    data = Path(path).read_bytes()
    (tmp_path / "x.tar").write_bytes(b"\0" * 512 + data + b"\0" * 700)
    row = simple(recordings, audio=f"{tmp_path}/x.tar?at=512&size={len(data)}")
    write_kaldi([row], tmp_path / "d")
    assert (tmp_path / "d/wav.scp").read_text() == f"ann-1 {tmp_path}/x.tar:512\n"
    (found,) = read_kaldi(tmp_path / "d")
    assert found.audio == row.audio and np.array_equal(heard(found), recordings[path][:, 0])


def test_what_cannot_be_written_is_a_problem_and_the_rest_is_written(recordings, tmp_path):
    rows = [
        simple(recordings),
        simple(recordings, text="again"),
        simple(recordings, id="x", audio=str(tmp_path / "none.wav")),
        simple(recordings, id="y", offset=1e9, duration=1e-9),
    ]
    problems = write_kaldi(rows, tmp_path / "d")
    assert [p.line for p in problems] == [2, 3, 4]
    assert "name of utterance 1" in problems[0].cause and "none.wav" in problems[1].cause
    assert [u.id for u in read_kaldi(tmp_path / "d")] == ["ann-1"]
    with pytest.raises(DataError, match="would be empty: none of 1"):
        write_kaldi(rows[2:3], tmp_path / "e")


def test_a_second_set_leaves_nothing_of_the_first(recordings, tmp_path):
    write_kaldi([simple(recordings, offset=0.1, duration=0.2, label="a\nb")], tmp_path)
    assert (tmp_path / "segments").exists() and "a\nb" in json.loads(
        (tmp_path / "utt2anemone").read_text()[6:]
    ).values()
    write_kaldi([simple(recordings)], tmp_path)
    assert set(os.listdir(tmp_path)) == {"wav.scp", "text", "utt2spk", "spk2utt", "utt2dur"}
