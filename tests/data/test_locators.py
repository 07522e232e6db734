"""Locators: pieces of tars and of parquet files, URLs; and tars that are hostile."""

import io
import os
import struct
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from anemone.data.locators import Locator, Slice, below, locate, open_audio, read_audio, relative, suffix
from anemone.data.tars import member, members
from anemone.errors import DataError
from anemone.testing import speech


def tar_of(path: Path, files: dict[str, bytes], **kinds: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    return path


@pytest.fixture
def wav(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(0.5), 16_000)
    return (tmp_path / "a.wav").read_bytes()


@given(st.text(min_size=1), st.integers(0, 2**53), st.integers(0, 2**53))
def test_a_locator_is_read_as_it_is_written(path, at, size):
    for place in (Locator("/" + path, at, size), Locator("/" + path, row=at), Locator("/" + path, member="x" + path)):
        found = locate(str(place))
        assert str(found) == str(place)
        if "?" not in path:
            assert found == place


def test_paths_are_taken_from_a_folder_and_written_below_it():
    assert below("/data", "a/b.tar?at=1&size=2") == "/data/a/b.tar?at=1&size=2"
    assert below("/data", "/b.wav") == relative("/data", "/b.wav") == "/b.wav"
    assert below("/data", "s3://bucket/b.wav") == relative("/data", "s3://bucket/b.wav") == "s3://bucket/b.wav"
    assert relative("/data", "/data/a/b.tar?row=1") == "a/b.tar?row=1"
    assert relative("/data", "/database/b.wav") == "/database/b.wav"
    assert below("/data", "~/b.wav") == os.path.expanduser("~/b.wav")


def test_a_member_is_decoded_where_it_lies(tmp_path, wav):
    path = tar_of(tmp_path / "x.tar", {"long/" * 50 + "x.wav": b"12345", "é.wav": wav, "b.txt": b""})
    for text in (f"{path}?member=é.wav", str(member(path, "é.wav"))):
        assert read_audio(text) == wav
        samples, rate = soundfile.read(open_audio(text), dtype="int16")
        assert rate == 16_000 and np.array_equal(samples, soundfile.read(io.BytesIO(wav), dtype="int16")[0])
    assert read_audio(f"{path}?member={'long/' * 50}x.wav") == b"12345" and read_audio(f"{path}?member=b.txt") == b""
    with pytest.raises(DataError, match=r"must have a member `e\.wav`, but has none\. Did you mean `é\.wav`"):
        open_audio(f"{path}?member=e.wav")


def test_an_index_of_a_tar_is_kept_until_the_tar_changes(tmp_path, wav, monkeypatch):
    path = tar_of(tmp_path / "x.tar", {"a": b"1", "b": b"22"})
    assert members(path)["size"].to_pylist() == [1, 2]
    import anemone.data.tars

    anemone.data.tars._members.cache_clear()
    monkeypatch.setattr(anemone.data.tars, "_scan", None)
    assert members(path)["name"].to_pylist() == ["a", "b"]
    monkeypatch.undo()
    tar_of(path, {"c": b"333"})
    assert members(path)["name"].to_pylist() == ["c"]


@given(st.binary(max_size=200), st.integers(0, 250), st.integers(0, 250), st.lists(st.integers(-50, 250), max_size=8))
def test_a_slice_is_a_file_of_its_own(tmp_path_factory, data, at, size, jumps):
    path = tmp_path_factory.getbasetemp() / "slice.bin"
    path.write_bytes(data)
    own, other = Slice(path, at, size), io.BytesIO(data[at : at + size])
    assert own.read() == other.read()
    for jump in jumps:
        assert own.seek(max(0, jump)) == other.seek(max(0, jump)) and own.read(7) == other.read(7)
        assert own.seek(0, os.SEEK_END) == other.seek(0, os.SEEK_END) and own.tell() == other.tell()
    own.close()
    own.close()


# --- hostile tars -----------------------------------------------------------------------------------------------------


def test_names_that_would_escape_are_read_by_offset_and_put_nowhere(tmp_path):
    path = tar_of(tmp_path / "x.tar", {"../../evil.wav": b"1", "/etc/evil.wav": b"2"})
    assert read_audio(f"{path}?member=../../evil.wav") == b"1" and read_audio(f"{path}?member=/etc/evil.wav") == b"2"
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar"]


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (tarfile.SYMTYPE, "is a link to `/etc/passwd`, which is not followed"),
        (tarfile.LNKTYPE, "is a link to `/etc/passwd`, which is not followed"),
        (tarfile.DIRTYPE, "is a folder"),
        (tarfile.FIFOTYPE, "is no plain file"),
        (tarfile.CHRTYPE, "is no plain file"),
    ],
)
def test_what_is_no_file_is_refused_by_name(tmp_path, kind, rule):
    path = tar_of(tmp_path / "x.tar", {"a": b"1"}, odd=kind)
    assert read_audio(f"{path}?member=a") == b"1"
    with pytest.raises(DataError, match=rf"`odd` in `.*x\.tar` {rule}"):
        open_audio(f"{path}?member=odd")


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_headers_that_claim_gigabytes_cost_nothing(tmp_path, kind):
    info = tarfile.TarInfo("huge.wav")
    info.size, info.type = 4 * 2**30, kind
    path = tar_of(tmp_path / "x.tar", {"a": b"1"})
    good = path.read_bytes()[:1024]
    path.write_bytes(good + info.tobuf(tarfile.GNU_FORMAT) + b"x" * 3000)
    table = members(path)
    assert table["odd"].to_pylist()[0] is None and len(table) == 2 and table["odd"].to_pylist()[1]
    assert read_audio(f"{path}?member=a") == b"1"


def test_what_is_no_tar_is_named(tmp_path):
    for name, data in (("empty.tar", b""), ("text.tar", b"hello" * 400), ("gz.tar", b"\x1f\x8b" + bytes(1000))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}` must be an uncompressed tar"):
            members(tmp_path / name)
    with pytest.raises(DataError, match=r"none\.tar` must be a tar, but cannot be opened"):
        members(tmp_path / "none.tar")


# --- rows of parquet files, URLs --------------------------------------------------------------------------------------


def test_a_row_of_a_parquet_file_is_unpacked_once(tmp_path, wav):
    path = tmp_path / "x.parquet"
    audio = [{"bytes": bytes([i]) * i, "path": f"{i}.wav"} for i in range(7)] + [{"bytes": wav, "path": None}]
    pq.write_table(pa.table({"audio": audio}), path, row_group_size=3)
    assert [read_audio(f"{path}?row={i}") for i in range(1, 7)] == [bytes([i]) * i for i in range(1, 7)]
    assert soundfile.info(open_audio(f"{path}?row=7")).samplerate == 16_000
    with pytest.raises(DataError, match="has no audio in row 0"):
        open_audio(f"{path}?row=0")
    with pytest.raises(DataError, match="must have audio in row 8, but has 8 rows"):
        open_audio(f"{path}?row=8")
    path.write_bytes(b"PAR1" + struct.pack("<I", 2**31) + b"PAR1")
    with pytest.raises(DataError, match="must be a parquet file"):
        open_audio(f"{path}?row=1")


def test_urls_are_kept_in_the_cache(tmp_path, wav, monkeypatch):
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/a.wav", wav)
    files.pipe("/bucket/x.tar", tar_of(tmp_path / "x.tar", {"a.wav": wav, "b": b"22"}).read_bytes())
    locators = ["memory://bucket/a.wav", "memory://bucket/x.tar?member=a.wav"]
    assert [read_audio(text) for text in locators] == [wav, wav]
    assert isinstance(open_audio(locators[0]), str) and suffix(locators[1]) == ".wav"
    place = member("memory://bucket/x.tar", "a.wav")
    assert read_audio(str(place)) == wav
    files.rm("/bucket", recursive=True)
    assert read_audio(locators[0]) == read_audio(str(place)) == wav
    with pytest.raises(DataError, match=r"`memory://bucket/c\.wav` cannot be fetched"):
        open_audio("memory://bucket/c.wav")
    with pytest.raises(DataError, match="chains several"):
        open_audio("zip://a::memory://bucket/c.wav")
    monkeypatch.setenv("ANEMONE_OFFLINE", "1")
    with pytest.raises(DataError, match="ANEMONE_OFFLINE is set"):
        open_audio("https://localhost/none.wav")
