"""Archives made to do harm: each is refused in words that name the cause; nothing of it runs, nothing is written."""

import gzip
import io
import json
import os
import pickle
import random
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import anemone
from anemone.checkpoint import members as members_module
from anemone.checkpoint.archive import Archive, read_archive, write_archive
from anemone.checkpoint.safe import load_tensors, open_members
from anemone.errors import AnemoneError, ArchiveError
from anemone.testing import tiny

CONFIG = b"task:\n  kind: classification\n"


@pytest.fixture(autouse=True)
def everything_stays_below(tmp_path, monkeypatch):
    """The working folder, home and the folder for temporary files are below `tmp_path`, so that a trace is found."""
    for name in ("work", "home", "temp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))


@pytest.fixture
def refused(tmp_path) -> Callable[..., None]:
    """Reads what must be refused, and looks for traces: new files anywhere below `tmp_path`, or other content."""

    def state() -> dict[Path, object]:
        files = sorted(tmp_path.rglob("*"))
        return {p: p.read_bytes() if p.is_file() and not p.is_symlink() else None for p in files}

    def check(path: Path, fault: str, read: Callable[[Path], object] = read_archive) -> None:
        before = state()
        with pytest.raises(ArchiveError, match=fault):
            read(path)
        assert state() == before

    return check


def weights(**tensors: torch.Tensor) -> bytes:
    """A good safetensors file."""
    from anemone.checkpoint.tensors import write_safetensors

    write_safetensors(file := io.BytesIO(), tensors or {"x": torch.arange(6.0).view(2, 3)})
    return file.getvalue()


def with_header(header: object, body: bytes = b"") -> bytes:
    """A safetensors file with a header of one's own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(begin: int, end: int, shape: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def tar(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of any members: name and content, or a header alone."""
    with tarfile.open(path, "w", format=format) as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member, io.BytesIO(bytes(member.size)))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
    return path


def good(**changes: bytes) -> list[tuple[str, bytes]]:
    """The members of a small good archive; `config` and `weights` may be others."""
    return [("config.yaml", changes.get("config", CONFIG)), ("weights.safetensors", changes.get("weights", weights()))]


def with_tensors(data: bytes, tmp_path: Path) -> Path:
    return tar(tmp_path / "m.anemone", *good(weights=data))


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


class Payload:
    """Unpickled without care, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


def read_checkpoint(path: Path) -> object:
    """Reads the weights of an archive of the peer's form."""
    with open_members(path) as members:
        return load_tensors(members.open("model_weights.ckpt"), members.where("model_weights.ckpt"))


def saved(value: object) -> bytes:
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


def nemo(tmp_path: Path, checkpoint: bytes) -> Path:
    return tar(tmp_path / "m.nemo", ("./model_config.yaml", b"target: x\n"), ("./model_weights.ckpt", checkpoint))


def test_the_small_good_archive_of_these_tests_is_read(tmp_path):
    """Else each of them could be refused for another reason."""
    assert torch.equal(read_archive(tar(tmp_path / "m.anemone", *good())).tensors["x"], torch.arange(6.0).view(2, 3))
    assert set(read_checkpoint(nemo(tmp_path, saved({"x": torch.ones(2)})))) == {"x"}


# --- code that wants to run -------------------------------------------------------------------------------------------


def test_a_pickle_in_the_weights_is_not_run(tmp_path, refused):
    mark = tmp_path / "ran"
    path = nemo(tmp_path, saved({"x": torch.ones(2), "y": Payload(mark)}))
    refused(
        path,
        r"model_weights.ckpt` is refused: its pickle names `posix.system`.* Nothing of it was run",
        read_checkpoint,
    )
    with zipfile.ZipFile(io.BytesIO(saved({"y": Payload(mark)}))) as file, pytest.raises(ValueError):
        name = next(name for name in file.namelist() if name.endswith("data.pkl"))
        pickle.loads(file.read(name))  # the payload works where there is no care: it runs, and only then fails
        raise ValueError(mark.exists() or "it did not run")
    assert mark.exists()


def test_a_bare_pickle_as_weights_is_not_run(tmp_path, refused):
    path = nemo(tmp_path, pickle.dumps(Payload(tmp_path / "ran")))
    refused(path, r"model_weights.ckpt` must be a zip as torch.save writes", read_checkpoint)


@pytest.mark.parametrize(
    "function", ["builtins.eval", "builtins.getattr", "torch.load", "subprocess.Popen", "os.system"]
)
def test_a_pickle_cannot_name_a_function(tmp_path, refused, function):
    module, _, name = function.rpartition(".")
    code = f"c{module}\n{name}\n(S'1'\ntR.".encode()
    with zipfile.ZipFile(file := io.BytesIO(), "w") as zipped:
        zipped.writestr("archive/data.pkl", code)
        zipped.writestr("archive/version", "3\n")
    refused(
        nemo(tmp_path, file.getvalue()), r"model_weights.ckpt` is refused: .*Nothing of it was run", read_checkpoint
    )


@pytest.mark.parametrize(
    "config",
    [
        b"_target_: os.system\n",
        b"task: {kind: classification, _target_: os.system, command: touch ran}\n",
        b"model: {blocks: [{a: 1}, {_target_: os.system}]}\n",
        b"hydra: {callbacks: {x: {_target_: os.system}}}\n",
        b"model: {_partial_: true}\n",
    ],
)
def test_a_config_of_ours_cannot_name_code(tmp_path, refused, config):
    refused(tar(tmp_path / "m.anemone", *good(config=config)), r"config.yaml` is refused: .*never names code to run")


@pytest.mark.parametrize(
    "tag", ["python/object/apply:os.system", "python/object:x.Y", "python/name:os.system", "binary"]
)
def test_a_yaml_tag_makes_no_object(tmp_path, refused, tag):
    config = b"task:\n  kind: !!" + tag.encode() + b" ['touch ran']\n"
    fault = rf"is refused as YAML in line 2: .*{tag}"
    refused(tar(tmp_path / "m.anemone", *good(config=config)), fault)


@pytest.mark.parametrize("place", [".metadata", "weights/.metadata"])
def test_the_pickle_of_a_distributed_checkpoint_is_not_read(tmp_path, refused, place):
    (tmp_path / "m" / place).parent.mkdir(parents=True)
    (tmp_path / "m" / place).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    (tmp_path / "m" / "config.yaml").write_bytes(CONFIG)
    refused(tmp_path / "m", rf"`{place}` is the pickle of a distributed checkpoint, and reading a pickle can run code")


def test_other_files_in_a_folder_are_not_opened(tmp_path):
    write_archive(tmp_path / "m", Archive({"a": 1}, {"x": torch.ones(1)}, {}))
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    assert set(read_archive(tmp_path / "m").files) == set()
    assert not (tmp_path / "ran").exists()


# --- names that lead outside ------------------------------------------------------------------------------------------

OUTSIDE = [
    "../x",
    "files/../../x",
    "/etc/x",
    "files//x",
    "C:x",
    "c:\\x",
    "files\\..\\x",
    "..",
    "files/./x",
    "files/a\nb",
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_name_that_leads_outside_is_refused(tmp_path, refused, name, format):
    refused(tar(tmp_path / "m.anemone", *good(), (name, b"x"), format=format), r"the name .* of a member leads outside")


def test_a_long_name_in_an_extended_header_is_checked_too(tmp_path, refused):
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tar(tmp_path / "m.anemone", *good(), ("../" + "x" * 200, b"x"), format=format)
        refused(path, r"the name '../xxx.*' of a member leads outside")


def test_a_name_longer_than_any_system_takes_is_refused(tmp_path, refused):
    refused(tar(tmp_path / "m.anemone", *good(), ("files/" + "x" * 2000, b"x")), r"the name 'files/xxx.*leads outside")


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (b"Z", r"of the unknown type b'Z'"),
    ],
)
def test_a_member_that_is_no_file_is_refused(tmp_path, refused, kind, word):
    path = tar(tmp_path / "m.anemone", special("files/x", kind, "../../home/secret"), *good())
    refused(path, rf"member `files/x` is {word}")


def test_a_sparse_file_in_an_extended_header_is_refused(tmp_path, refused):
    info = tarfile.TarInfo("files/x")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "99999999999999"}
    refused(tar(tmp_path / "m.anemone", *good(), info), r"an extended header cannot be used: a sparse file")


@pytest.mark.parametrize("name", ["files/x", "weights.safetensors", "files"])
def test_a_link_in_a_folder_is_refused(tmp_path, refused, name):
    (tmp_path / "home" / "secret").write_text("s")
    write_archive(tmp_path / "m", Archive({"a": 1}, {"x": torch.ones(1)}, {"y": b""}))
    target = tmp_path / "m" / name
    if target.is_dir():
        (target / "y").unlink()
        target.rmdir()
        target.symlink_to(tmp_path / "home")
    else:
        target.unlink(missing_ok=True)
        target.symlink_to(tmp_path / "home" / "secret")
    refused(tmp_path / "m", rf"member `{name}` is a symbolic link")


def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(tmp_path):
    write_archive(tmp_path / "m", Archive({"a": 1}, {"x": torch.ones(1)}, {"y": b""}))
    os.mkfifo(tmp_path / "m" / "files" / "pipe")
    with pytest.raises(ArchiveError, match=r"member `files/pipe` is no regular file"):
        read_archive(tmp_path / "m")


# --- too much ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.yaml", "./config.yaml", ".//config.yaml"])
def test_a_member_that_stands_twice_is_refused(tmp_path, refused, name):
    refused(tar(tmp_path / "m.anemone", *good(), (name, b"task: {kind: other}\n")), r"`config.yaml` stands in it twice")


def test_too_many_members_are_refused(tmp_path, refused, monkeypatch):
    refused(tar(tmp_path / "m.anemone", *((f"files/{i}", b"") for i in range(10_001))), r"has more than 10000 members")
    monkeypatch.setattr(members_module, "MAX_MEMBERS", 3)
    write_archive(tmp_path / "m", Archive({"a": 1}, {"x": torch.ones(1)}, {"y": b""}))
    refused(tmp_path / "m", r"has more than 3 members")


def test_a_gzip_that_swells_is_refused(tmp_path, refused):
    path = tmp_path / "m.anemone"
    tar(path, *good(), ("files/x", bytes(70 << 20)))
    path.write_bytes(gzip.compress(path.read_bytes(), 9))
    assert path.stat().st_size < 100_000
    refused(path, r"unpacks to more than 67108864 bytes, like a bomb")


def test_a_zip_that_swells_is_refused_unopened(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "m.anemone", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.yaml", bytes(10 << 20))
    refused(tmp_path / "m.anemone", r"must be a tar, but is a zip instead")


def test_a_checkpoint_that_swells_is_refused(tmp_path, refused):
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("archive/data.pkl", pickle.dumps({}))
        zipped.writestr("archive/data/0", bytes(10 << 20))
    refused(nemo(tmp_path, file.getvalue()), r"`archive/data.pkl` in it is compressed", read_checkpoint)


def test_a_checkpoint_whose_records_overlap_is_refused(tmp_path, refused):
    """A thousand names for the same kilobyte: the directory at the end of a zip lists one record many times."""
    with zipfile.ZipFile(file := io.BytesIO(), "w") as zipped:
        zipped.writestr("archive/data.pkl", pickle.dumps({}))
        zipped.writestr("archive/data/0", bytes(100_000))
        first = zipped.infolist()[1]
        for i in range(1, 9):
            twin = zipfile.ZipInfo(f"archive/data/{i}")
            twin.CRC, twin.header_offset, twin.file_size, twin.compress_size = (
                first.CRC,
                first.header_offset,
                100_000,
                100_000,
            )
            zipped.filelist.append(twin)
            zipped.NameToInfo[twin.filename] = twin
    refused(nemo(tmp_path, file.getvalue()), r"unpacks to more than its own \d+ bytes, like a bomb", read_checkpoint)


def test_a_tensor_that_repeats_a_byte_is_refused(tmp_path, refused):
    checkpoint = saved({"x": torch.zeros(1).expand(10**6, 10**6)})
    refused(
        nemo(tmp_path, checkpoint),
        r"ckpt: x` is refused: its shape \[1000000, 1000000\] repeats bytes",
        read_checkpoint,
    )


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([torch.ones(1)], r"must hold a table of tensors, but holds a list instead"),
        ({"x": [torch.ones(1)]}, r"must hold tensors by name, but `x` is a list"),
        ({3: torch.ones(1)}, r"must hold tensors by name, but `3` is a Tensor"),
        ({"x": torch.eye(2).to_sparse()}, r"x` must be a dense tensor with data, but is torch.sparse_coo on cpu"),
        ({"x": torch.empty(2, device="meta")}, r"x` must be a dense tensor with data, but is torch.strided on meta"),
    ],
)
def test_a_checkpoint_must_be_a_flat_table_of_plain_tensors(tmp_path, refused, value, fault):
    refused(nemo(tmp_path, saved(value)), fault, read_checkpoint)


def test_yaml_aliases_that_swell_are_refused(tmp_path, refused):
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    config = "\n".join(lines).encode()
    refused(tar(tmp_path / "m.anemone", *good(config=config)), r"refused as YAML in line 2: the alias `\*a0`")


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (b"[" * 100_000, r"config.yaml` is refused as YAML: maximum recursion"),
        (b"a: " + b"x" * (3 << 20), r"config.yaml` must have at most 2097152 bytes"),
        (b"a: \xff\xfe\n", r"config.yaml` must be UTF-8 text"),
        ("a: 1\n".encode("utf-16"), r"config.yaml` must be UTF-8 text"),
        (b"a: \x00\n", r"config.yaml` is refused as YAML"),
        (b"- a\n", r"config.yaml` must be a mapping of settings, but is a list instead"),
        (b"", r"config.yaml` must be a mapping of settings, but is a NoneType instead"),
        (b"a: " + b"1" * 5000, r"config.yaml` is refused as YAML"),
        (b"a: [\n", r"config.yaml` is refused as YAML in line 2"),
    ],
)
def test_a_config_that_is_no_mapping_of_values_is_refused(tmp_path, refused, config, fault):
    refused(tar(tmp_path / "m.anemone", *good(config=config)), fault)


# --- broken off -------------------------------------------------------------------------------------------------------


def test_a_tar_cut_anywhere_is_refused(tmp_path, refused):
    whole = tar(tmp_path / "whole.anemone", *good(), ("files/" + "long" * 50, b"x")).read_bytes()
    cuts = [*range(0, len(whole) - 1024, 251), *range(512, len(whole) - 1024, 512)]
    end = max(i for i in range(len(whole)) if whole[i]) // 512 * 512 + 512
    for cut in (cut for cut in cuts if cut < end):
        (tmp_path / "cut.anemone").write_bytes(whole[:cut])
        refused(tmp_path / "cut.anemone", r"is cut short|is no tar|lacks `")


def test_a_gzip_cut_short_or_broken_is_refused(tmp_path, refused):
    whole = gzip.compress(tar(tmp_path / "whole.anemone", *good()).read_bytes())
    for broken in (whole[:-1], whole[: len(whole) // 2], whole[:20], whole[:50] + b"??" + whole[52:]):
        (tmp_path / "m.anemone").write_bytes(broken)
        refused(tmp_path / "m.anemone", r"is cut short or broken")


def test_a_checkpoint_cut_short_is_refused(tmp_path, refused):
    whole = saved({"x": torch.ones(100)})
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        refused(
            nemo(tmp_path, whole[:cut]), r"must be a zip as torch.save writes since 1.6, and whole", read_checkpoint
        )


@pytest.mark.parametrize("cut", [0, 7, 8, 50])
def test_a_safetensors_header_cut_short_is_refused(tmp_path, refused, cut):
    refused(
        with_tensors(weights()[:cut], tmp_path), r"weights.safetensors` is cut short: its header needs \d+ bytes of"
    )


def test_a_safetensors_body_cut_short_is_refused(tmp_path, refused):
    refused(with_tensors(weights()[:-1], tmp_path), r"weights.safetensors` is cut short: `x` ends at byte 24 of 23")


def test_what_is_no_archive_is_refused(tmp_path, refused):
    (tmp_path / "m").write_text("just a letter, longer than a header of a tar would be " * 20)
    refused(tmp_path / "m", r"m` is no tar: .* at byte 0")
    (tmp_path / "m").write_bytes(bytes(2048))
    refused(tmp_path / "m", r"m` is no tar")


# --- weights that lie -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (
            (1 << 60).to_bytes(8, "little") + b"{}",
            r"must have a header of at most 33554432 bytes, but has 1152921504606846976",
        ),
        ((33 << 20).to_bytes(8, "little") + bytes(33 << 20), r"must have a header of at most 33554432 bytes"),
        (with_header(b"{" * 100_000), r"has a header that is refused"),
        (with_header(b"[" * 100_000), r"has a header that is refused"),
        (with_header(b"\xff{}"), r"has a header that is refused"),
        (with_header([]), r"must have a header that is a mapping, but it is list"),
        (with_header({"x": 3}), r"x` must have dtype, shape and data_offsets, but has 3"),
        (with_header({"x": {"dtype": "F32"}}), r"x` must have dtype, shape and data_offsets"),
        (with_header({"x": entry(0, 4, [1], "P32")}, bytes(4)), r"x` must have a dtype of .*but has 'P32' instead"),
        (with_header({"x": entry(0, 4, [1], ["F32"])}, bytes(4)), r"x` must have a dtype of"),
        (
            with_header({"x": entry(0, 4, [2])}, bytes(4)),
            r"x` does not fit its bytes: torch.float32 \[2\] needs 8 bytes, but",
        ),
        (
            with_header({"x": entry(0, 4, [1], "F64")}, bytes(4)),
            r"x` does not fit its bytes: torch.float64 \[1\] needs 8",
        ),
        (with_header({"x": entry(0, 4, [-1, -1])}, bytes(4)), r"x` must have a shape of whole numbers"),
        (with_header({"x": entry(0, 4, [True])}, bytes(4)), r"x` must have a shape of whole numbers"),
        (with_header({"x": entry(0, 4, [1.0])}, bytes(4)), r"x` must have a shape of whole numbers"),
        (with_header({"x": entry(0, 4, 1)}, bytes(4)), r"x` must have a shape of whole numbers"),
        (with_header({"x": entry(0, 0, [0, 1 << 62])}), r"x` must have a shape of whole numbers"),
        (with_header({"x": entry(0, 4, [1] * 17)}, bytes(4)), r"x` must have a shape of whole numbers"),
        (with_header({"x": entry(4, 0, [1])}, bytes(4)), r"x` must have two data_offsets in order"),
        (with_header({"x": entry(-4, 0, [1])}, bytes(4)), r"x` must have two data_offsets in order"),
        (with_header({"x": entry(0, 1 << 70, [1])}, bytes(4)), r"x` does not fit its bytes"),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path, refused, data, fault):
    refused(with_tensors(data, tmp_path), rf"weights.safetensors.*{fault}")


def test_tensors_that_share_bytes_are_refused(tmp_path, refused):
    both = with_header({"x": entry(0, 8, [2]), "y": entry(0, 8, [2])}, bytes(8))
    refused(with_tensors(both, tmp_path), r"y` must begin at byte 8, but begins at 0: tensors may not share")
    partly = with_header({"x": entry(0, 8, [2]), "y": entry(4, 12, [2])}, bytes(12))
    refused(with_tensors(partly, tmp_path), r"y` must begin at byte 8, but begins at 4")


def test_hidden_bytes_between_and_after_tensors_are_refused(tmp_path, refused):
    gap = with_header({"x": entry(0, 4, [1]), "y": entry(8, 12, [1])}, bytes(12))
    refused(with_tensors(gap, tmp_path), r"y` must begin at byte 4, but begins at 8")
    refused(with_tensors(weights() + b"#!/bin/sh", tmp_path), r"must end after its last tensor, at byte 24, but has 33")


def test_a_tensor_named_twice_is_refused(tmp_path, refused):
    text = json.dumps(entry(0, 4, [1]))
    data = with_header(f'{{"x": {text}, "x": {text}}}'.encode(), bytes(4))
    refused(with_tensors(data, tmp_path), r"has a header that is refused: `x` stands in it twice")


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (torch.ones(3, 3), r"must be \[\d+, \d+\], but is \[3, 3\] instead"),
        (torch.ones(1 << 20), r"must be \[\d+, \d+\], but is \[1048576\] instead"),
        (torch.empty(0), r"must be \[\d+, \d+\], but is \[0\] instead"),
        (None, r"is missing in the archive"),
    ],
)
def test_weights_of_wrong_shapes_are_refused_by_name(tmp_path, refused, wrong, fault):
    anemone.save(tiny(), tmp_path / "m.anemone")
    archive = read_archive(tmp_path / "m.anemone")
    archive.tensors["head.linear.weight"] = wrong
    tensors = {name: tensor for name, tensor in archive.tensors.items() if tensor is not None}
    write_archive(tmp_path / "m.anemone", archive._replace(tensors=tensors))
    refused(tmp_path / "m.anemone", rf"`head.linear.weight` {fault}", anemone.load)


def test_weights_of_a_wrong_kind_of_number_are_refused_by_name(tmp_path, refused):
    anemone.save(tiny(), tmp_path / "m.anemone")
    archive = read_archive(tmp_path / "m.anemone")
    archive.tensors["head.linear.weight"] = archive.tensors["head.linear.weight"].to(torch.int8)
    write_archive(tmp_path / "m.anemone", archive)
    refused(tmp_path / "m.anemone", r"`head.linear.weight` must be torch.float32, but is torch.int8", anemone.load)


# --- headers of a tar that lie ----------------------------------------------------------------------------------------


def test_an_extended_header_without_end_is_refused(tmp_path, refused):
    info = tarfile.TarInfo("files/x")
    info.pax_headers = {"comment": "x" * (2 << 20)}
    refused(tar(tmp_path / "m.anemone", *good(), info), r"has an extended header of \d+ bytes")


@pytest.mark.parametrize(
    ("size", "fault"),
    [("-5", r"an extended header cannot be used: -5 bytes"), ("x", r"cannot be used"), ("9" * 30, r"is cut short")],
)
def test_a_size_in_an_extended_header_is_checked(tmp_path, refused, size, fault):
    info = tarfile.TarInfo("files/x")
    info.pax_headers = {"size": size}
    refused(tar(tmp_path / "m.anemone", *good(), info), fault)


def test_a_negative_size_is_refused(tmp_path, refused):
    """A size below zero would lead a reader round in circles."""
    info = tarfile.TarInfo("files/x")
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = (-512 & (1 << 96) - 1).to_bytes(12, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "m.anemone").write_bytes(bytes(block) + bytes(1024))
    refused(tmp_path / "m.anemone", r"`files/x` has -512 bytes")


# --- anything else ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ours", "peer"])
def test_whatever_bytes_are_changed_nothing_else_goes_wrong(tmp_path, form):
    """Archives with some bytes changed are read, or refused with an error of ours."""
    rng = random.Random(0)
    ours = tar(tmp_path / "m.anemone", *good(), ("files/" + "long" * 50, b"x"))
    path = (
        ours if form == "ours" else nemo(tmp_path, saved({"x": torch.ones(2), "y": torch.zeros(3, dtype=torch.long)}))
    )
    read = read_archive if form == "ours" else read_checkpoint
    whole = path.read_bytes()
    used = [i for i in range(len(whole)) if whole[i]]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3])):
            data[rng.choice(used)] = rng.randrange(256)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's, about versions it does not know
                read(path)
            outcomes["read"] += 1
        except AnemoneError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20
