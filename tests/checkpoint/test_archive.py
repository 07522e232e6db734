"""An archive comes back as it was, in both forms, and a save never endangers the one before."""

import os
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from anemone.checkpoint.archive import Archive, read_archive, write_archive
from anemone.checkpoint.card import front_matter, model_card
from anemone.checkpoint.safe import open_members
from anemone.errors import ArchiveError

FORMS = ["model", "model.anemone"]


def archive(seed: int = 0) -> Archive:
    torch.manual_seed(seed)
    tensors = {
        "encoder.weight": torch.randn(4, 3).t(),  # not contiguous
        "encoder.steps": torch.tensor(7),
        "encoder.half": torch.randn(5).bfloat16(),
        "encoder.kept": torch.tensor([True, False, True]),
        "encoder.empty": torch.empty(0, 3),
        "head.weight": torch.randn(2, 3, 1, dtype=torch.float64),
    }
    tensors["head.tied"] = tensors["encoder.weight"]
    config = {
        "task": {"kind": "classification", "labels": ["yes", "no", "ü", "1"], "dropout": None},
        "model": {"kind": "quartznet", "width": 0.5, "eps": 1e-5, "masked": True, "blocks": [[1, 2], [3]]},
    }
    return Archive(config, tensors, {"tokenizer/pieces.model": bytes(range(256)), "empty.txt": b""}, "# A card\n")


def same(a: Archive, b: Archive) -> bool:
    tensors = a.tensors.keys() == b.tensors.keys() and all(
        torch.equal(t, b.tensors[k]) and t.dtype == b.tensors[k].dtype for k, t in a.tensors.items()
    )
    return tensors and a._replace(tensors={}) == b._replace(tensors={})


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_comes_back_as_it_was(tmp_path, form):
    write_archive(tmp_path / form, archive())
    assert same(read_archive(tmp_path / form), archive())


def test_one_file_is_a_plain_tar_of_the_folder(tmp_path):
    for form in FORMS:
        write_archive(tmp_path / form, archive())
    with tarfile.open(tmp_path / "model.anemone", "r:") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    for root in ("model", "unpacked"):
        assert sorted(p.relative_to(tmp_path / root).as_posix() for p in (tmp_path / root).rglob("*.*")) == [
            "README.md",
            "config.yaml",
            "files/empty.txt",
            "files/tokenizer/pieces.model",
            "weights.safetensors",
        ]
    assert same(read_archive(tmp_path / "unpacked"), archive())


def test_a_gzipped_file_reads_the_same(tmp_path):
    import gzip

    write_archive(tmp_path / "model.anemone", archive())
    (tmp_path / "zipped.anemone").write_bytes(gzip.compress((tmp_path / "model.anemone").read_bytes()))
    assert same(read_archive(tmp_path / "zipped.anemone"), archive())


@pytest.mark.parametrize("form", FORMS)
def test_the_same_content_gives_the_same_bytes(tmp_path, form):
    write_archive(tmp_path / "a" / form, archive())
    time.sleep(0.01)
    write_archive(tmp_path / "b" / form, archive())
    files = [p for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert files
    assert all(p.read_bytes() == (tmp_path / "b" / p.relative_to(tmp_path / "a")).read_bytes() for p in files)


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_can_be_read_changed_and_written_over_itself(tmp_path, form):
    """Its tensors are mapped from the file that is replaced."""
    write_archive(tmp_path / form, archive())
    read = read_archive(tmp_path / form)
    read.tensors["encoder.weight"].add_(1)
    assert same(read_archive(tmp_path / form), archive())
    write_archive(tmp_path / form, read)
    assert torch.equal(read_archive(tmp_path / form).tensors["encoder.weight"], archive().tensors["encoder.weight"] + 1)
    assert [p.name for p in tmp_path.iterdir()] == [form]


def test_weights_go_to_and_fro_with_the_safetensors_library(tmp_path):
    write_archive(tmp_path / "model", archive())
    weights = tmp_path / "model" / "weights.safetensors"
    theirs = safetensors.torch.load_file(weights)
    assert same(archive(), archive()._replace(tensors=theirs))
    safetensors.torch.save_file({k: v.clone().contiguous() for k, v in theirs.items()}, weights, {"by": "them"})
    assert same(read_archive(tmp_path / "model"), archive())


def test_tensors_are_aligned_even_where_the_file_is_not(tmp_path):
    """Old files of others have headers of any length."""
    body = torch.arange(3, dtype=torch.float32)
    header = b'{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
    assert len(header) % 4
    write_archive(tmp_path / "m", archive())
    weights = len(header).to_bytes(8, "little") + header + body.numpy().tobytes()
    (tmp_path / "m" / "weights.safetensors").write_bytes(weights)
    read = read_archive(tmp_path / "m").tensors["x"]
    assert torch.equal(read, body) and read.data_ptr() % 4 == 0


def test_members_are_mapped_not_copied(tmp_path):
    """A model of 400 MB of zeros, sparse on disk, is listed and opened in a few MB."""
    big = torch.zeros(1).expand(10_000, 10_000)
    script = """
        import resource, sys
        from anemone.checkpoint.archive import read_archive
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tensors = read_archive(sys.argv[1]).tensors
        assert tensors["x"].shape == (10_000, 10_000) and tensors["x"][5000, 5000] == 0
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    write_archive(tmp_path / "big", archive()._replace(tensors={"x": torch.zeros(1)}))
    header = b'{"x":{"dtype":"F32","shape":[10000,10000],"data_offsets":[0,400000000]}}'
    with (tmp_path / "big" / "weights.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(file.tell() + big.numel() * 4)
    kilobytes = int(run(script, tmp_path / "big"))
    assert kilobytes < 100_000


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("model.nemo", r"must be a folder or end in `.anemone`, but ends in '.nemo' instead"),
        ("model.pt", r"must be a folder or end in `.anemone`, but ends in '.pt' instead"),
        ("photos", r"must be a new folder or an archive, but is a folder with other content instead"),
        ("photos.anemone", r"must be a new folder or an archive, but is a folder with other content instead"),
        ("letter", r"must be a new folder or an archive, but is a file instead"),
    ],
)
def test_what_is_no_archive_is_never_written_over(tmp_path, name, fault):
    for folder in ("photos", "photos.anemone"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "me.jpg").write_bytes(b"me")
    (tmp_path / "letter").write_text("dear")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArchiveError, match=fault):
        write_archive(tmp_path / name, archive())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"config": {"a": (1, 2)}}, r"its config would not read back the same \(lists, no tuples\)"),
        ({"config": {"a": {1, 2}}}, r"refused as YAML.*set"),
        ({"config": {"a": torch.float32}}, r"its config must hold plain values"),
        ({"config": {"a": {"_target_": "x"}}}, r"`_target_` is refused"),
        ({"tensors": {"x": torch.eye(2).to_sparse()}}, r"`x` must be a dense tensor of a plain type with data"),
        ({"tensors": {"x": torch.empty(2, device="meta")}}, r"`x` must be a dense tensor of a plain type with data"),
        ({"files": {"../x": b""}}, r"the name '../x' of a member leads outside"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, change, fault):
    with pytest.raises(ArchiveError, match=fault):
        write_archive(tmp_path / "m", archive()._replace(**change))
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ArchiveError, match=r"m` must be a file or folder that exists"):
        read_archive(tmp_path / "m")
    write_archive(tmp_path / "m", archive())
    (tmp_path / "m" / "weights.safetensors").rename(tmp_path / "m" / "weights.safetensor")
    with pytest.raises(ArchiveError, match=r"lacks `weights.safetensors`. It holds: .*weights.safetensor\."):
        read_archive(tmp_path / "m")


KILLED = """
import itertools, os, random, signal, sys, time, torch
from anemone.checkpoint.archive import Archive, read_archive, write_archive

def save_for_ever(start, done):
    for i in itertools.count(start):
        tensors = {f"t{k}": torch.full((5_000,), float(i)) for k in range(100)}
        for path in sys.argv[1:]:
            write_archive(path, Archive({"save": i}, tensors, {"n": str(i).encode()}, f"# {i}\\n"))
        os.write(done, b".")

start = 0
for after in [random.uniform(0, 0.1) for _ in range(16)]:
    heard, done = os.pipe()
    if not (child := os.fork()):
        save_for_ever(start, done)
    os.close(done)
    finished = start - 1 + len(os.read(heard, 1))  # the first save is whole before the clock runs
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(heard, 100):
        finished += len(more)
    for path in sys.argv[1:]:
        read = read_archive(path)
        saved = read.config["save"]
        assert saved in {finished, finished + 1}, (path, saved, finished)
        assert read.files == {"n": str(saved).encode()} and read.card == f"# {saved}\\n"
        assert len(read.tensors) == 100
        assert all(torch.equal(t, torch.full((5_000,), float(saved))) for t in read.tensors.values())
    start = finished + 1
"""

KILLED_IN_THE_MIDDLE = """
import os, signal, sys, torch
from anemone.checkpoint import archive

def half(file, tensors, read):
    file.write(b"half of the weights")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

archive.write_safetensors = half
for path in sys.argv[1:]:
    if not (child := os.fork()):
        archive.write_archive(path, archive.Archive({"new": True}, {"x": torch.ones(9)}, {}))
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


def run(script: str, *paths: Path) -> str:
    """Runs a script in a process of its own, without further threads, so that it may fork; returns what it prints."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, paths)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE, text=True).stdout


def test_a_save_killed_at_any_moment_leaves_a_whole_archive(tmp_path):
    """A child saves over and over in both forms, numbering its saves; after each of sixteen kills both are whole."""
    run(KILLED, *(tmp_path / form for form in FORMS))


def test_a_save_killed_in_its_middle_leaves_the_old_archive(tmp_path):
    """The child dies while half of the weights are written."""
    for form in FORMS:
        write_archive(tmp_path / form, archive())
    run(KILLED_IN_THE_MIDDLE, *(tmp_path / form for form in FORMS))
    for form in FORMS:
        assert (tmp_path / f"{form}.tmp").exists()
        assert same(read_archive(tmp_path / form), archive())
        write_archive(tmp_path / form, archive(1))
        assert same(read_archive(tmp_path / form), archive(1))
        assert not (tmp_path / f"{form}.tmp").exists()


def test_an_empty_card_is_made_of_the_config(tmp_path):
    write_archive(tmp_path / "yes-no", archive()._replace(card=""))
    card = read_archive(tmp_path / "yes-no").card
    assert front_matter(card) == {
        "library_name": "anemone",
        "pipeline_tag": "audio-classification",
        "tags": ["anemone", "quartznet"],
    }
    assert "# yes-no\n" in card


def test_a_card_tells_search_engines_and_people_the_score():
    card = model_card(
        "yes-no",
        {"task": {"kind": "recognition"}, "model": {"kind": "quartznet"}},
        language=["en", "no"],
        licence="apache-2.0",
        datasets=["telephone words"],
        scores={"wer": 0.12345},
        text="One voice per language: expect worse elsewhere.",
    )
    values = front_matter(card)
    assert values["language"] == ["en", "no"] and values["license"] == "apache-2.0"
    result = values["model-index"][0]["results"][0]
    assert result["task"] == {"type": "automatic-speech-recognition"}
    assert result["dataset"]["name"] == "telephone words"
    assert result["metrics"] == [{"type": "wer", "value": 0.12345}]
    assert "| wer | 0.1235 |" in card and "One voice per language" in card and "task.transcribe(" in card


def test_a_broken_front_matter_is_refused():
    assert front_matter("# no front matter\n---\n") == {}
    with pytest.raises(ArchiveError, match=r"front matter of a card` is refused as YAML"):
        front_matter("---\na: [\n---\n")


def test_members_tells_what_a_member_is_too_large_for(tmp_path):
    write_archive(tmp_path / "m.anemone", archive())
    with open_members(tmp_path / "m.anemone") as members:
        with pytest.raises(ArchiveError, match=r"config.yaml` must have at most 5 bytes, but has \d+ instead"):
            members.read("config.yaml", at_most=5)
        with members.open("files/tokenizer/pieces.model") as file:
            assert file.seek(-2, 2) == 254 and file.read() == b"\xfe\xff" and file.read() == b""
            assert file.seek(1) == 1 and file.seek(2, 1) == 3 and file.read(1) == b"\x03"
