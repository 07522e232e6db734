"""Kaldi's rules for data directories."""

import pytest

from anemone.data.kaldi import check_kaldi
from anemone.errors import DataError

GOOD = {
    "wav.scp": "r1 /a.wav\nr2 cat x |\n",
    "segments": "a-1 r1 0 1\na-2 r2 0.5 1e1\nb-1 r1 1 2\n",
    "text": "a-1 yes\na-2\nb-1 水 火\n",
    "utt2spk": "a-1 a\na-2 a\nb-1 b\n",
    "spk2utt": "a a-1 a-2\nb b-1\n",
    "spk2gender": "a f\nb m\n",
    "utt2dur": "a-1 1\na-2 .5\nb-1 1.5\n",
    "utt2num_frames": "a-1 100\na-2 50\nb-1 100\n",
    "reco2file_and_channel": "r1 r A\nr2 r B\n",
    "feats.scp": "a-1 f:1\na-2 f:2\nb-1 f:3\n",
    "cmvn.scp": "a c:1\nb c:2\n",
}


def findings(folder, **options):
    return [str(p).removeprefix(f"{folder}/") for p in check_kaldi(folder, **options)]


@pytest.fixture
def folder(tmp_path):
    for name, text in GOOD.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_good_directory_passes(folder):
    assert findings(folder, features=True) == []


@pytest.mark.parametrize(
    ("name", "text", "finding"),
    [
        ("utt2spk", "a-2 a\na-1 a\nb-1 b\n", "utt2spk:2: must come in the order of bytes"),
        ("utt2spk", "a-1 a\na-1 a\na-2 a\nb-1 b\n", "utt2spk:2: must come in the order of bytes, each key once"),
        ("utt2spk", "a-1 b\na-2 a\nb-1 b\n", "utt2spk:1: must be in the order of speakers too"),
        ("utt2spk", "a-1 a x\na-2 a\nb-1 b\n", "utt2spk:1: must be utterance and speaker, but is `a-1 a x`"),
        ("spk2utt", "a a-1\nb b-1\n", "spk2utt:0: must say the same as utt2spk"),
        ("spk2utt", "", "spk2utt:0: is empty"),
        ("text", "a-1 yes\nb-1 no\n", "text:2: must have the utterances of utt2spk"),
        ("text", "a-1 a <s> b\na-2\nb-1\n", "text:1: must not have the symbol `<s>`"),
        ("text", "a-1 a\u3000b\na-2\nb-1\n", "text:1: must have no white space but blanks and tabs, but has U+3000"),
        ("text", "a-1 a\x01b\na-2\nb-1\n", "text:1: must have characters that can be printed, but has U+0001"),
        ("text", "a-1 a\na-2\nb-1 b", "text:3: must end with a line end"),
        (
            "segments",
            "a-1 r1 1 1\na-2 r2 0 1\nb-1 r1 1 2\n",
            "segments:1: must be utterance, recording, begin and a later",
        ),
        ("segments", "a-1 r1 0 1 0\na-2 r2 0 1\nb-1 r1 1 2\n", "segments:1: must be utterance, recording"),
        ("wav.scp", "r1 /a.wav\nr3 /b.wav\n", "wav.scp:2: must have the recordings of segments"),
        ("wav.scp", "r1 ~/a.wav\nr2 /b.wav\n", "wav.scp:1: must be a recording and a place"),
        ("spk2gender", "a f\nb x\n", "spk2gender:2: must be speaker and m or f"),
        ("reco2file_and_channel", "r1 r A\nr2 r C\n", "reco2file_and_channel:2: must be recording, file and A or B"),
        ("utt2dur", "a-1 1\na-2 0\nb-1 1\n", "utt2dur:2: must be utterance and seconds above 0"),
        ("utt2num_frames", "a-1 1\na-2 1.5\nb-1 1\n", "utt2num_frames:2: must be utterance and a whole number"),
        ("cmvn.scp", "a c:1\n", "cmvn.scp:2: must have the speakers of spk2utt"),
        ("feats.scp", "a-1 f:1\na-2 f:2\nc-1 f:3\n", "feats.scp:3: must have the utterances of utt2spk"),
    ],
)
def test_what_is_wrong_is_named_by_table_and_line(folder, name, text, finding):
    (folder / name).write_text(text)
    found = findings(folder)
    assert any(line.startswith(finding) for line in found), found


def test_what_must_be_there_is_missed(folder):
    (folder / "feats.scp").unlink()
    (folder / "text").unlink()
    assert findings(folder, text=False) == []
    assert findings(folder, features=True) == ["text:0: is not there", "feats.scp:0: is not there"]
    with pytest.raises(DataError, match="must be a data directory"):
        check_kaldi(folder / "nowhere")
