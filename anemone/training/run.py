"""The run folder describes itself: what ran, from which code, where, on which data, and what came of it.

lock               kept by the process that trains, with its number
config.yaml        the decoded settings, labels filled in
data.json          rows, size and fingerprint of each set
environment.json   versions, machine, command, git commits
git.diff           what was not committed
log.txt            what was said
metrics.csv        one row for each logged step, reproducible to the last digit
tensorboard/       the same and speeds, for `tensorboard --logdir`
checkpoints/       to resume from
results.json       metrics of the finished run
model.anemone      the finished model
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
import yaml

import anemone
from anemone.checkpoint.atomic import atomic_write
from anemone.config import Tree
from anemone.data import Examples
from anemone.errors import ConfigError, TrainingError

FREE = (
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accelerator",
    "trainer.max_minutes",
    "trainer.max_nonfinite",
    "trainer.log_every",
    "trainer.eval_every",
    "parallel*",
    "checkpoint.*",
    "run.folder",
    "run.resume",
    "run.loggers",
    "run.project",
    "run.progress",
    "data.train*",
    "data.valid*",
    "data.test*",
    "data.num_workers",
    "data.cache_mb",
    "data.eval_batch_size",
    "decoding*",
)
"""Settings that may change between two sittings of a run: they do not touch what is learnt. (The training data are
compared by content, wherever they lie.)"""

LARGEST_DIFF = 2_000_000


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run folder within the block; a process that is killed lets go at once.

    Raises:
        TrainingError: another process trains there; says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        if os.name == "posix":
            import fcntl

            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, it is not handed down to forks
            except (BlockingIOError, PermissionError):
                file.seek(0)
                raise TrainingError(
                    f"`run.folder` must be one where no other process trains, but process {file.read() or 'unknown'} "
                    f"does so in `{folder}`: wait for it, end it, or choose another `run.folder`."
                ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}")
        file.flush()
        yield


def describe_run(folder: Path, tree: Tree, data: Mapping[str, Examples]) -> None:
    """Writes what is known before training starts."""
    folder.mkdir(parents=True, exist_ok=True)
    code = {state["folder"]: state for where in (Path.cwd(), Path(__file__).parent) if (state := git_state(where))}
    diffs = "".join(f"# {top}\n{state.pop('diff')}" for top, state in code.items())
    environment = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "anemone": anemone.__version__,
        "python": sys.version,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git": list(code.values()),
        "packages": dict(sorted((d.metadata["Name"], d.version) for d in distributions())),
    }
    write_json(folder / "environment.json", environment)
    atomic_write(folder / "git.diff", diffs[:LARGEST_DIFF].encode())
    write_json(folder / "data.json", {name: index.describe() for name, index in data.items()})
    atomic_write(folder / "config.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode())


def refuse_changes(folder: Path, tree: Tree, fingerprint: str) -> None:
    """Compares the settings of a run with those its folder was started with.

    Raises:
        ConfigError: something that matters differs; says what, and how to go on.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    before, now = flatten(yaml.safe_load(path.read_text("utf-8"))), flatten(tree)
    changes = [
        f"`{name}` was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not any(fnmatch(name, pattern) for pattern in FREE)
    ]
    data = folder / "data.json"
    if data.exists() and (old := json.loads(data.read_text("utf-8"))["train"]["fingerprint"]) != fingerprint:
        changes.append(f"the training manifests hold something else (fingerprint {old}, now {fingerprint})")
    if changes:
        raise ConfigError(
            f"`run.folder` must be that of the same run, but `{folder}` was started with other settings: "
            f"{'; '.join(changes)}. To go on from its last checkpoint with the new ones, set `run.resume=changed`; to "
            "start anew, choose another `run.folder`, or remove this one.",
            path="run.folder",
        )


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Returns the leaves of a tree by dotted name; a list is a leaf."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {
        name: leaf for key, value in tree.items() for name, leaf in flatten(value, f"{path}.{key}".lstrip(".")).items()
    }


def git_state(folder: Path) -> Tree | None:
    """Commit, branch, changed files and diff of the working tree that a folder lies in; None outside of one."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        return None
    return {
        "folder": top.strip(),
        "commit": (_git(folder, "rev-parse", "HEAD") or "").strip(),
        "branch": (_git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "changed": (_git(folder, "status", "--porcelain") or "").splitlines(),
        "diff": _git(folder, "diff", "HEAD") or "",
    }


def counted(number: int, noun: str) -> str:
    """A number and what it counts.

    Example:
        >>> counted(1, "step"), counted(12_000, "step")
        ('1 step', '12,000 steps')
    """
    return f"{number:,} {noun}" + "s" * (number != 1)


def write_json(path: Path, tree: Any) -> None:
    """Writes a tree, wholly or not at all."""
    atomic_write(path, (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode())


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", os.fspath(folder), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
