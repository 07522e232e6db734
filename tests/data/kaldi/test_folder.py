"""Data directories as utterances."""

import os
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from anemone.data.audio import load_audio
from anemone.data.kaldi import read_kaldi
from anemone.data.problems import Problem
from anemone.errors import DataError

RATE = 16_000
SAMPLES = np.random.default_rng(0).integers(-(2**15), 2**15, RATE, np.int16)


def make(folder: Path, **tables: str) -> Path:
    """A data directory in a folder; names of tables have _ for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        (folder / name.replace("_scp", ".scp")).write_text(text, "utf-8")
    return folder


def samples(utterance) -> np.ndarray:
    return load_audio(utterance.audio, RATE, offset=utterance.offset, duration=utterance.duration)


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "wav" / "talk.wav"
    path.parent.mkdir()
    soundfile.write(path, SAMPLES, RATE)
    return path


def test_all_tables_become_utterances(tmp_path, wav):
    folder = make(
        tmp_path / "data/train",
        wav_scp=f"rec {wav}\n",
        segments="s1-a rec 0 0.25\ns1-b rec 0.25 0.75\ns2-c rec 0.5 -1\n",
        text="s1-a hello  there\ns1-b 水\u3000火\n",
        utt2spk="s1-a s1\ns1-b s1\ns2-c s2\n",
        spk2gender="s1 f\n",
        utt2lang="s1-b ja\n",
    )
    a, b, c = read_kaldi(folder)
    assert (a.id, a.audio, a.offset, a.duration, a.text, a.speaker) == ("s1-a", str(wav), 0, 0.25, "hello  there", "s1")
    assert a.extra == {"recording": "rec", "gender": "f"} and a.channel is None and a.label is None
    assert (b.text, b.extra["lang"], b.duration) == ("水\u3000火", "ja", 0.5)
    assert (c.text, c.speaker, c.duration) == (None, "s2", 0.5)
    assert np.array_equal(samples(c) * 2**15, SAMPLES[RATE // 2 :])


def test_durations_come_from_utt2dur_or_the_recording(tmp_path, wav):
    folder = make(tmp_path / "d", wav_scp=f"a {wav}\nb {wav}\n", utt2dur="a 0.5\n", spk2utt="z a\nb b\n")
    a, b = read_kaldi(folder)
    assert (a.duration, b.duration) == (0.5, 1.0)
    assert (a.speaker, b.speaker) == ("z", None)


def test_paths_are_found_from_the_folders_above(tmp_path, wav, monkeypatch):
    folder = make(tmp_path / "data/train", wav_scp="a wav/talk.wav\n")
    monkeypatch.chdir("/")
    (a,) = read_kaldi(folder)
    assert a.audio == str(wav)


def test_recordings_in_arks_are_read_by_offset(tmp_path, wav):
    other = SAMPLES[::-1].copy()
    ark = str(tmp_path / "wav.ark")
    kaldiio.save_ark(ark, {"a": (RATE, SAMPLES), "b": (RATE, other)}, scp=str(tmp_path / "wav.scp"))
    (tmp_path / "d").mkdir()
    (tmp_path / "wav.scp").rename(tmp_path / "d/wav.scp")
    a, b = read_kaldi(tmp_path / "d")
    assert a.audio.startswith(f"{ark}?at=2&size=") and a.duration == b.duration == 1.0
    assert np.array_equal(samples(a) * 2**15, SAMPLES) and np.array_equal(samples(b) * 2**15, other)


def test_flac_in_kaldiio_arks_is_read_by_offset(tmp_path):
    arrays = {"a": (SAMPLES, RATE), "b": (SAMPLES[::-1].copy(), RATE)}
    make(tmp_path / "d")
    scp = str(tmp_path / "d/wav.scp")
    kaldiio.save_ark(
        str(tmp_path / "f.ark"), arrays, scp=scp, write_function="soundfile", write_kwargs={"format": "flac"}
    )
    for utterance, (array, _) in zip(read_kaldi(tmp_path / "d"), arrays.values(), strict=True):
        assert np.array_equal(samples(utterance) * 2**15, array)


def test_commands_run_only_where_they_are_trusted(tmp_path, wav, monkeypatch):
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path / "cache"))
    mark = tmp_path / "ran"
    folder = make(tmp_path / "d", wav_scp=f"a {wav}\nb touch {mark}; cat {wav} |\n")
    a, problem = read_kaldi(folder)
    assert a.id == "a" and not mark.exists()
    assert str(problem).startswith(f"{folder}/wav.scp:2: `touch {mark}; cat {wav} |` is a command.")
    assert "--trust-commands" in problem.cause
    _, b = read_kaldi(folder, trust_commands=True)
    assert mark.exists() and np.array_equal(samples(b) * 2**15, SAMPLES)
    assert str(tmp_path / "cache") in b.audio


def test_a_channel_is_that_of_the_table_where_there_are_several(tmp_path, wav):
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.stack([SAMPLES, SAMPLES[::-1]], 1), RATE)
    folder = make(
        tmp_path / "d",
        wav_scp=f"a {stereo}\nb {stereo}\nc {wav}\n",
        reco2file_and_channel="a talk A\nb talk B\nc talk B\n",
    )
    assert [u.channel for u in read_kaldi(folder)] == [0, 1, None]
    segments = "u a 0 0.2\nv a 0 0.2 1\nw a 0 -1 -1\nx a 0 0.2 1.5\ny a 0 0.2 -2\nz a 0 0.2 1 1\n"
    folder = make(tmp_path / "e", wav_scp=f"a {stereo}\n", segments=segments)
    found = list(read_kaldi(folder))
    assert [u.channel for u in found[:3] if not isinstance(u, Problem)] == [None, 1, None]
    causes = ["a channel from 0 on, or -1, as its last word, but has `1.5`", "but has `-2`", "but has 6 words"]
    for problem, cause in zip(found[3:], causes, strict=True):
        assert isinstance(problem, Problem) and cause in problem.cause


def test_what_is_wrong_is_said_by_file_and_line_and_the_rest_goes_on(tmp_path, wav):
    folder = make(
        tmp_path / "d",
        wav_scp=f"rec {wav}\nlost {tmp_path}/lost.wav\nrec again\n",
        segments="a rec 0 0.5\nb rec 0.5\nc rec 0.5 0.2\nd rec x 1\ne nowhere 0 1\nf rec nan 1\ng lost 0 -1\n",
        text="a yes\nz no\n",
    )
    found = list(read_kaldi(folder))
    assert [u.id for u in found if not isinstance(u, Problem)] == ["a"]
    where = [(os.path.basename(p.file), p.line) for p in found if isinstance(p, Problem)]
    assert where == [("wav.scp", 3), *(("segments", n) for n in range(2, 8)), ("text", 2)]
    causes = [p.cause for p in found if isinstance(p, Problem)]
    assert "stands in line 1 already" in causes[0] and "has 3 words" in causes[1] and "from 0.5 to 0.2" in causes[2]
    assert "`nowhere` is not in" in causes[4] and "cannot be opened" in causes[6] and "no utterance of" in causes[7]


def test_a_folder_without_recordings_says_what_it_is_good_for(tmp_path):
    make(tmp_path / "d", feats_scp="a x.ark:1\n")
    with pytest.raises(
        DataError, match=r"with a file wav.scp. It has features only: train on them with data.kind=kaldi"
    ):
        list(read_kaldi(tmp_path / "d"))
