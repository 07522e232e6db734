"""The run folder: what is written, and which changes matter."""

import os
import subprocess
import sys

import pytest
import yaml

from anemone.errors import ConfigError, TrainingError
from anemone.training.run import flatten, git_state, occupied, refuse_changes


def test_git_state_has_commit_changes_and_diff(tmp_path):
    assert git_state(tmp_path) is None
    (tmp_path / "file").write_text("one\n")
    who = ["-c", "user.name=A", "-c", "user.email=a@b.example"]
    for words in (["init", "-q"], ["add", "file"], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    assert git_state(tmp_path)["changed"] == []
    (tmp_path / "file").write_text("two\n")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40 and state["changed"] == [" M file"] and "+two" in state["diff"]


def test_leaves_have_dotted_names():
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": 1, "a.c": [1, 2], "d": None}


def start(folder, tree):
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    (folder / "data.json").write_text('{"train": {"fingerprint": "f"}}')


BEFORE = {"optim": {"lr": 0.1}, "trainer": {"devices": 1, "max_steps": 5}, "data": {"num_workers": 0, "rate": 8000}}


def test_changes_that_touch_no_weight_are_free(tmp_path):
    refuse_changes(tmp_path, BEFORE, "f")  # nothing there yet
    start(tmp_path, BEFORE)
    free = BEFORE | {"trainer": {"devices": 2, "max_steps": 5}, "data": {"num_workers": 4, "rate": 8000}}
    refuse_changes(tmp_path, free, "f")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"optim": {"lr": 0.2}}, r"`optim\.lr` was 0\.1 and is 0\.2"),
        ({"optim": {"lr": 0.1, "eps": 1.0}}, r"`optim\.eps` was None and is 1\.0"),
        ({"data": {"num_workers": 0}}, r"`data\.rate` was 8000 and is None"),
    ],
)
def test_changes_that_matter_are_named(tmp_path, changed, said):
    start(tmp_path, BEFORE)
    with pytest.raises(ConfigError, match=said + r"\. To go on .* `run\.resume=changed`; to start anew"):
        refuse_changes(tmp_path, BEFORE | changed, "f")


def test_other_data_are_named(tmp_path):
    start(tmp_path, BEFORE)
    with pytest.raises(ConfigError, match=r"manifests hold something else \(fingerprint f, now g\)"):
        refuse_changes(tmp_path, BEFORE, "g")


OCCUPY = """
import os, pathlib, sys
from anemone.training.run import occupied
with occupied(pathlib.Path(sys.argv[1])):
    if os.fork() == 0:  # such as a worker of a loader, which outlives its parent for a while
        os.close(1)
        sys.stdin.read()
        os._exit(0)
    print("occupied", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_train_in_one_folder_and_a_killed_one_lets_go(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", OCCUPY, str(tmp_path)], **pipes) as process:
        assert process.stdout.readline() == "occupied\n"
        with pytest.raises(TrainingError, match=rf"process {process.pid} on \S+ does so in `{tmp_path}`"):
            occupied(tmp_path).__enter__()
        process.kill()
        process.wait()
        with occupied(tmp_path):
            assert (tmp_path / "lock").read_text().startswith(f"{os.getpid()} on ")
