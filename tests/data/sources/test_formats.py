"""Each format as its own tools write and read it: NeMo, Lhotse, Hugging Face, Common Voice, LibriSpeech."""

import datetime
import decimal
import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import lhotse
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from anemone.data.locators import read_audio
from anemone.data.problems import Problem
from anemone.data.sources import Utterance, source
from anemone.data.sources.convert import convert, read
from anemone.data.sources.detect import detect
from anemone.data.sources.pieces import cut
from anemone.data.sources.shar import write_shar
from anemone.errors import DataError
from anemone.testing import speech

TARRED = Path(__file__).parents[2] / "golden/parity/tarred"


@pytest.fixture
def ours(tmp_path):
    """Three utterances of two recordings: a whole one, a piece, a channel."""
    soundfile.write(tmp_path / "a.wav", speech(1.0), 16_000)
    soundfile.write(tmp_path / "two.flac", np.stack([speech(1.0), -speech(1.0)], axis=1), 16_000)
    a, two = str(tmp_path / "a.wav"), str(tmp_path / "two.flac")
    return [
        Utterance("a", a, 0.0, 1.0, "eins", None, "ann", None, {"language": "de", "age": 7}),
        Utterance("a-1", a, 0.25, 0.5, "zwei", None, "ann", None, {"language": "de"}),
        Utterance("b", two, 0.5, None, "drei", "x", "bob", 1, {}),
    ]


def problems(path: Path | str, form: str | None = None) -> list[str]:
    return [str(item) for item in read(path, form) if isinstance(item, Problem)]


# --- NeMo -------------------------------------------------------------------------------------------------------------


def test_a_set_that_nemo_wrote_is_read():
    found = list(read(TARRED))
    assert detect(TARRED) == detect(TARRED / "tarred_audio_manifest.json") == "tarred"
    assert [each.id for each in found] == ["3", "6", "1", "7", "0", "4"]
    assert found[0].audio == found[1].audio != found[4].audio  # a-sub1 is stored once
    for each in found:
        assert soundfile.info(io.BytesIO(read_audio(each.audio))).samplerate == 16_000
        assert len(cut(each)[0]) == round(each.duration * 16_000) and dict(each.extra) == {"lang": "en"}
    one = list(read(TARRED / "sharded_manifests/manifest_1.json"))
    assert one == found[3:]
    pattern = f"{TARRED}/sharded_manifests/manifest__OP_0..1_CL_.json"
    assert list(read(f"{pattern}?tars={TARRED}/audio_{{0..1}}.tar")) == list(read(pattern)) == found


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("inside", ["", "./"])
@pytest.mark.parametrize("said", ["", "./"])
def test_names_of_members_may_begin_with_a_dot_and_be_long(tmp_path, form, inside, said):
    recording = tmp_path / "recording.wav"
    soundfile.write(recording, speech(0.2), 16_000)
    names = ["a.wav", "sub/ü.wav", "d" * 150 + "/" + "e" * 120 + ".wav"]
    with tarfile.open(tmp_path / "audio_0.tar", "w", format=form) as tar:
        folder = tarfile.TarInfo(f"{inside}sub/")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in names:
            tar.add(recording, inside + name)
    rows = [{"audio_filepath": said + name, "duration": 0.2, "shard_id": 0} for name in [*names, "a-sub1.wav"]]
    (tmp_path / "tarred_audio_manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(read(tmp_path))
    assert [len(cut(each)[0]) for each in found] == [3200] * 4


def test_a_row_that_is_in_no_tar_is_named(tmp_path):
    for tar in TARRED.glob("*.tar"):
        os.symlink(tar, tmp_path / tar.name)
    first = json.loads((TARRED / "tarred_audio_manifest.json").read_text().splitlines()[0])
    rows = [first, first | {"shard_id": 7}, first | {"audio_filepath": "b.wav"}, first | {"shard_id": None}]
    (tmp_path / "tarred_audio_manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    good, *bad = read(tmp_path)
    assert detect(tmp_path / "tarred_audio_manifest.json") == "tarred"
    assert isinstance(good, Utterance) and [each.line for each in bad] == [2, 3, 4]
    assert "`shard_id` must be the number of a tar in" in bad[0].cause and "?tars=" in bad[0].cause
    (tmp_path / first["audio_filepath"]).touch()
    assert detect(tmp_path / "tarred_audio_manifest.json") == "jsonl"  # the recording is a file, whatever its shard
    assert "`audio_filepath` must be in" in bad[1].cause and "`shard_id` must be the number" in bad[2].cause


def test_manifests_of_several_files_and_texts_in_files(tmp_path, ours):
    (tmp_path / "a.txt").write_text("ein Text\n")
    row = {"audio_filepath": "a.wav", "duration": 1.0}
    for i in range(3):
        (tmp_path / f"m_{i}.json").write_text(json.dumps(row | {"text": str(i)}) + "\n")
    with gzip.open(tmp_path / "m_3.json.gz", "wt") as file:
        file.write("\ufeff" + json.dumps(row | {"text_filepath": "a.txt"}) + "\n" + json.dumps({"_skipme": True}))
    assert [each.text for each in read(tmp_path / "m__OP_0..2_CL_.json")] == ["0", "1", "2"]
    assert [each.text for each in read(tmp_path / "m_3.json.gz")] == ["ein Text"]
    done = convert([tmp_path / "m_{0,2}.json", tmp_path / "m_3.json.gz"], tmp_path / "all.jsonl")
    assert done == (3, []) and [each.text for each in read(tmp_path / "all.jsonl")] == ["0", "2", "ein Text"]


# --- Lhotse -----------------------------------------------------------------------------------------------------------


def compare(cuts: lhotse.CutSet, ours: list[Utterance]) -> None:
    found = list(cuts)
    assert [each.id for each in found] == [each.id for each in ours]
    for cut_, each in zip(found, ours, strict=True):
        (part,) = cut_.supervisions
        assert (part.text, part.speaker) == (each.text, each.speaker)
        assert part.language == each.extra.get("language") and (cut_.custom or {}).get("age") == each.extra.get("age")
        samples = cut(each)[0].T / 2**15
        np.testing.assert_array_equal(cut_.load_audio().ravel(), samples.ravel().astype(np.float32))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # Lhotse's
def test_lhotse_reads_our_cuts_and_our_shar(tmp_path, ours):
    assert not source("lhotse").write(ours, tmp_path / "cuts.jsonl.gz")
    lhotse.validate(lhotse.CutSet.from_file(tmp_path / "cuts.jsonl.gz"), read_data=True)
    compare(lhotse.CutSet.from_file(tmp_path / "cuts.jsonl.gz"), ours)
    assert not source("shar").write(ours, tmp_path / "shar")
    compare(lhotse.CutSet.from_shar(in_dir=tmp_path / "shar"), ours)


def test_we_read_cuts_and_shar_of_lhotse(tmp_path, ours):
    source("lhotse").write(ours, tmp_path / "ours.jsonl")
    cuts = lhotse.CutSet.from_file(tmp_path / "ours.jsonl")
    cuts.to_file(tmp_path / "theirs.jsonl.gz")
    assert detect(tmp_path / "theirs.jsonl.gz") == "lhotse"
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": "flac"}, shard_size=2)
    assert detect(tmp_path / "shar") == "shar"
    for path in (tmp_path / "theirs.jsonl.gz", tmp_path / "shar"):
        found = list(read(path))
        assert [each[0] for each in found] == ["a", "a-1", "b"]
        for each, our in zip(found, ours, strict=True):
            assert (each.text, each.speaker, each.extra) == (our.text, our.speaker, our.extra)
            np.testing.assert_array_equal(cut(each)[0].ravel(), cut(our)[0].ravel())


def test_cuts_that_run_commands_mix_or_lack_audio_are_refused(tmp_path, ours):
    source("lhotse").write(ours[:1], tmp_path / "cuts.jsonl")
    cut_ = json.loads((tmp_path / "cuts.jsonl").read_text())
    run, mixed, bare, changed = (json.loads(json.dumps(cut_)) for _ in range(4))
    run["recording"]["sources"][0] = {"type": "command", "channels": [0], "source": f"touch {tmp_path}/ran"}
    mixed["type"] = "MixedCut"
    del bare["recording"]
    changed["recording"]["transforms"] = [{"name": "Speed", "kwargs": {"factor": 1.1}}]
    lines = [json.dumps(row) + "\n" for row in (cut_, run, mixed, bare, changed)]
    (tmp_path / "cuts.jsonl").write_text("".join(lines))
    found = problems(tmp_path / "cuts.jsonl")
    assert len(found) == 4 and not (tmp_path / "ran").exists()
    for line, cause in zip(found, ("commands are not run", "MixedCut", "recording", "transforms"), strict=True):
        assert cause in line and "cuts.jsonl:" in line
    assert all("`save_audios` first" in found[i] for i in (1, 3))


def test_a_tar_of_shar_that_is_none_costs_its_own_cuts(tmp_path, ours):
    write_shar(ours, tmp_path / "set", per_shard=1)
    (tmp_path / "set/recording.000001.tar").write_bytes(b"")
    found = list(read(tmp_path / "set"))
    assert [isinstance(each, Problem) for each in found] == [False, True, False]
    assert "cuts.000001.jsonl.gz:1: `" in str(found[1]) and "must be an uncompressed tar" in str(found[1])


# --- tables, folders, parquet -----------------------------------------------------------------------------------------


def test_common_voice_is_read(tmp_path, ours):
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("1.mp3", "2.mp3"):
        soundfile.write(clips / name, speech(1.0), 32_000)
    rows = [
        "client_id\tpath\tsentence\tup_votes\tlocale",
        'ab\t1.mp3\tEr sagte: "Ja\t2\tde',
        "cd\t2\tJa\t0\tde",
        "x\ty",
    ]
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n")
    *found, bad = read(tmp_path / "train.tsv")
    assert [(each.id, each.speaker, each.text) for each in found] == [("1", "ab", 'Er sagte: "Ja'), ("2", "cd", "Ja")]
    assert found[1].audio == str(clips / "2.mp3") and found[0].extra == {"up_votes": "2", "locale": "de"}
    assert str(bad).endswith("train.tsv:4: must have 5 cells, as the header, but has 2 instead")
    assert convert([tmp_path / "train.tsv"], tmp_path / "again.tsv").rows == 2
    assert next(iter(read(tmp_path / "again.tsv"))) == found[0]


def test_tables_without_paths_and_with_lines_in_cells(tmp_path, ours):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"a\.csv:1: must be a header with a column of paths"):
        list(read(tmp_path / "a.csv"))
    lines = ours[0]._replace(text='zwei\nZeilen, "ja"\t')
    assert not source("csv").write([lines], tmp_path / "b.csv")
    assert [each.text for each in read(tmp_path / "b.csv")] == [lines.text]
    lines = ours[0]._replace(text="a\rb\r\nc")
    assert not source("csv").write([lines, ours[1]], tmp_path / "r.csv")
    assert [each.text for each in read(tmp_path / "r.csv")] == [lines.text, ours[1].text]
    (lost,) = source("csv").write([lines, ours[1]], tmp_path / "b.tsv")
    assert "no place for tabs" in lost.cause and [each.id for each in read(tmp_path / "b.tsv")] == ["a-1"]


def test_folders_of_audio_stay_inside(tmp_path, ours):
    assert not source("audiofolder").write(ours, tmp_path / "set")
    assert detect(tmp_path / "set") == "audiofolder"
    rows = [json.loads(line) for line in (tmp_path / "set/metadata.jsonl").read_text().splitlines()]
    assert rows[0]["file_name"] == "data/a.wav" and rows[0]["transcription"] == "eins" and rows[0]["age"] == 7
    (tmp_path / "set/metadata.jsonl").unlink()
    table = "file_name,transcription\ndata/a.wav,ja\n../a.wav,nein\n/etc/passwd,nein\ndata/../../a.wav,nein\n"
    (tmp_path / "set/metadata.csv").write_text(table)
    good, *bad = read(tmp_path / "set")
    assert good.text == "ja" and [each.line for each in bad] == [3, 4, 5]
    assert all("must be the path of a file inside the folder" in each.cause for each in bad)


def test_labels_are_names_of_folders_without_metadata(tmp_path):
    for label in ("yes", "no"):
        (tmp_path / label).mkdir()
        soundfile.write(tmp_path / label / "1.wav", speech(0.2), 16_000)
    assert [(each.label, each.id) for each in read(tmp_path, "audiofolder")] == [("no", "1"), ("yes", "1")]


def test_parquet_of_hugging_face_is_read_and_written(tmp_path, ours):
    audio = [{"bytes": Path(ours[0].audio).read_bytes(), "path": "x.wav"}, {"bytes": b"", "path": "y.wav"}]
    notes = {
        "info": {"features": {"audio": {"_type": "Audio"}, "label": {"_type": "ClassLabel", "names": ["no", "yes"]}}}
    }
    table = pa.table({"audio": audio, "label": [1, 0], "sentence": ["ja", None]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(notes)})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data/train-00000-of-00001.parquet")
    found = list(read(tmp_path / "data"))
    assert [(each.id, each.label, each.text) for each in found] == [("x", "yes", "ja"), ("y", "no", None)]
    np.testing.assert_array_equal(cut(found[0])[0], cut(ours[0])[0])
    done = convert([tmp_path / "data"], tmp_path / "again.parquet")
    assert done.rows == 1 and "has no audio in row 1" in done.problems[0].cause
    assert not source("parquet").write(ours, tmp_path / "set.parquet")
    schema = pq.read_schema(tmp_path / "set.parquet")
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"]["audio"] == {"_type": "Audio"}
    assert pa.types.is_int64(schema.field("age").type)
    os.rename(tmp_path / "set.parquet", tmp_path / "set")
    assert detect(tmp_path / "set") == "parquet"


def test_columns_of_parquet_become_what_json_has(tmp_path, ours):
    day = datetime.date(2020, 2, 29)
    columns = {
        "audio": [{"bytes": Path(ours[0].audio).read_bytes(), "path": "x.wav"}],
        "day": [day],
        "at": pa.array([1_000_000_001], pa.timestamp("ns")),
        "price": [decimal.Decimal("1.50")],
        "picture": [b"\xff"],
        "pictures": [[{"bytes": b"\xff"}]],
        "snr": [float("nan")],
        "half": [0.5],
        "tags": [["a", "b"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (found,) = read(tmp_path / "a.parquet")
    at = "1970-01-01 00:00:01.000000001"
    assert found.extra == {"day": "2020-02-29", "at": at, "price": "1.50", "half": 0.5, "tags": ["a", "b"]}
    assert convert([tmp_path / "a.parquet"], tmp_path / "a.jsonl").rows == 1


def test_librispeech_is_read(tmp_path, ours):
    folder = tmp_path / "dev/1272/128104"
    folder.mkdir(parents=True)
    soundfile.write(folder / "1272-128104-0000.flac", speech(0.5), 16_000)
    (folder / "1272-128104.trans.txt").write_text("1272-128104-0000 MISTER QUILTER\n1272-128104-0001 IS\n../x A\n")
    assert detect(tmp_path / "dev") == "librispeech"
    good, *bad = read(tmp_path / "dev")
    assert (good.id, good.speaker, good.text) == ("1272-128104-0000", "1272", "MISTER QUILTER")
    assert [each.line for each in bad] == [2, 3] and "must begin with the name of a file" in bad[1].cause
    hostile = [ours[0]._replace(id="../../x"), ours[0]._replace(speaker=".."), ours[0]._replace(id="a b"), ours[1]]
    hostile += [ours[0]._replace(id="a?member=b")]  # would read as a place in a tar
    lost = source("librispeech").write(hostile, tmp_path / "out/set")
    assert len(lost) == 4 and [path.name for path in (tmp_path / "out").iterdir()] == ["set"]


# --- hostile ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "x" * 500, "ä/b", ".", "..", "\x01"])
def test_no_id_puts_a_file_elsewhere(tmp_path, ours, name):
    for kind in ("shar", "audiofolder", "parquet", "tarred", "librispeech", "kaldi"):
        target = tmp_path / "a/b/c" / kind
        target.parent.mkdir(parents=True, exist_ok=True)
        source(kind).write([ours[1]._replace(id=name), ours[0]], target)
        assert "a" in {getattr(each, "id", "").rpartition("-")[2] for each in read(target, kind)}
    outside = {path.name for path in [*tmp_path.iterdir(), *(tmp_path / "a").iterdir(), *(tmp_path / "a/b").iterdir()]}
    assert outside == {"a.wav", "two.flac", "a", "b", "c"} and not Path("/tmp/evil").exists()


def test_files_of_nothing_and_of_anything_are_named(tmp_path, ours):
    row = {"audio_filepath": "empty.wav", "text": "x"}
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"audio_filepath": "a.wav"}) + "\n")
    done = convert([tmp_path / "m.jsonl"], tmp_path / "n.jsonl")
    assert done.rows == 1 and "empty.wav` must be an audio file, but is empty" in done.problems[0].cause
    for kind, name in (("jsonl", "0.jsonl"), ("csv", "0.csv"), ("parquet", "0.parquet"), ("lhotse", "0.jsonl")):
        (tmp_path / name).write_bytes(b"")
        if kind in ("csv", "parquet"):
            with pytest.raises(DataError, match=rf"{name}"):
                list(read(tmp_path / name, kind))
        else:
            assert list(read(tmp_path / name, kind)) == []
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(bytes(1 << 20)) * 400)
    with pytest.raises(DataError, match=r"unpacks to more than 200 times its size|at most 16777216 bytes"):
        list(read(tmp_path / "bomb.jsonl.gz"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 99)[:-9])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz` cannot be read"):
        list(read(tmp_path / "cut.jsonl.gz"))


def test_unknown_formats_and_targets_are_named(tmp_path, ours):
    with pytest.raises(DataError, match="must be a data set that exists"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "x.bin").write_bytes(b"1")
    for path in (tmp_path, tmp_path / "x.bin"):
        with pytest.raises(DataError, match=r"Say which it is: one of jsonl, tarred, kaldi, "):
            read(path)
    with pytest.raises(DataError, match=r"`parqet` must be a format of data sets\. Did you mean `parquet`\?"):
        source("parqet")
    source("jsonl").write(ours, tmp_path / "m.jsonl")
    with pytest.raises(DataError, match="does not say in which format"):
        convert([tmp_path / "m.jsonl"], tmp_path / "out")
    with pytest.raises(DataError, match="must not be what is read"):
        convert([tmp_path / "m.jsonl"], tmp_path / "m.jsonl")
