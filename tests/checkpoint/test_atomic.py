"""A write happens wholly or not at all."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from anemone.checkpoint.atomic import atomic_file, atomic_folder, atomic_write, standing


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    with atomic_file(tmp_path / "a" / "x") as draft:
        draft.write_bytes(b"new")
        assert not (tmp_path / "a" / "x").exists()
    assert (tmp_path / "a" / "x").read_bytes() == b"new"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x"]


def test_a_file_stays_as_it_was_if_its_writer_fails(tmp_path):
    atomic_write(tmp_path / "x", b"old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "x") as draft:
        draft.write_bytes(b"half")
        raise RuntimeError
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"old")]


def test_a_folder_replaces_the_one_before(tmp_path):
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "deep" / "f") as folder:
            (folder / content).mkdir()
            (folder / content / "x").write_text(content)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "deep",
        "deep/f",
        "deep/f/two",
        "deep/f/two/x",
    ]


def test_a_folder_stays_as_it_was_if_its_writer_fails(tmp_path):
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f" / "x").read_text() == "old"


def test_a_folder_moved_aside_by_a_killed_writer_is_found_and_put_back(tmp_path):
    for name in ("f.old", "f.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    assert standing(tmp_path / "f") == tmp_path / "f.old"
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "f"):
        raise RuntimeError
    assert standing(tmp_path / "f") == tmp_path / "f"
    assert (tmp_path / "f" / "x").read_text() == "f.old"


@pytest.mark.parametrize("after", [0.0, 0.004, 0.011, 0.023, 0.042])
def test_a_kill_at_any_moment_leaves_a_whole_folder(tmp_path, after):
    """A child rewrites a folder of three equal files without end, and is killed."""
    script = """
        import sys, itertools
        from anemone.checkpoint.atomic import atomic_folder
        for i in itertools.count():
            with atomic_folder(sys.argv[1]) as folder:
                for name in "abc":
                    (folder / name).write_text(str(i) * 100_000)
            print(i, flush=True)
    """
    target = tmp_path / "f"
    command = [sys.executable, "-c", textwrap.dedent(script), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        time.sleep(after)
        os.kill(child.pid, signal.SIGKILL)
    contents = {(standing(target) / name).read_text() for name in "abc"}
    assert len(contents) == 1
