"""Long work on a data set that may be killed at any moment: run again, it goes on, and the result is the same.

The work is cut into numbered units, each a pure function of its rows. A unit writes its files beside their places and
moves them there, one step a file, then, also in one step, its part: a file of JSON lines that says that the unit is
done and what the result's manifest is to hold. A unit without a part is done again, to the same bytes. When all parts
are there the manifest is made of them, in the order of the rows, as the last of all files: a folder with a manifest
is finished. All that is unfinished lies in ``.work``, which is removed then.

A process killed at any moment loses nothing but the units it was in. A machine that loses power may lose files that
are younger than half a minute.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from anemone.config import must
from anemone.data.manifest import Index
from anemone.data.problems import SHOWN, Problem, log
from anemone.errors import DataError

WORK = ".work"
SPARE = 16  # rows of a unit that is not a shard: what a kill costs each process at most
JOB = "job.json"
MANIFEST = "manifest.jsonl"
PROBLEMS = "problems.jsonl"

Line = dict[str, Any]


class Unit(NamedTuple):
    """A piece of the work: its number, and the rows it is about, plain enough for JSON."""

    number: int
    rows: list[Line]


class Done(NamedTuple):
    """What came of a unit: lines for the manifest, and the rows that could not be used."""

    lines: list[Line]
    problems: list[Problem]


class Work(Protocol):
    """What is done to a unit, in whichever process; it puts its files through `place`."""

    def __call__(self, unit: Unit, out: Path) -> Done:
        """Does a unit."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Work to do, cut into units.

    Attributes:
        work: what is done to each unit.
        bounds: unit n has the rows from ``bounds[n]`` on, up to ``bounds[n + 1]``.
        rows: gives rows, plain enough for JSON, from one number to another.
    """

    work: Work
    bounds: Sequence[int]
    rows: Callable[[int, int], list[Line]]

    def __len__(self) -> int:
        """Number of units."""
        return len(self.bounds) - 1

    def size(self, number: int) -> int:
        """Rows of a unit."""
        return self.bounds[number + 1] - self.bounds[number]

    def unit(self, number: int) -> Unit:
        """Gives a unit by its number."""
        return Unit(number, self.rows(self.bounds[number], self.bounds[number + 1]))


class Report(NamedTuple):
    """What was made.

    Attributes:
        manifest: the new manifest.
        rows: utterances that were read.
        lines: utterances that were written.
        seconds: of audio in, and out.
        problems: utterances that could not be used.
    """

    manifest: Path
    rows: int
    lines: int
    seconds: tuple[float, float]
    problems: list[Problem]


Tell = Callable[[int, int], None]
"""Is told how many more rows are done, of how many in all."""

Engine = Callable[[Work, Sequence[int], Callable[[int], Unit], Path], Iterator[int]]
"""Does the units of some numbers in whatever order, and yields the number of each that is done."""


@contextmanager
def folder_of(out: Path, said: Mapping[str, Any]) -> Iterator[bool]:
    """Holds a job's folder for this process alone, and gives whether its work is finished already.

    Raises:
        DataError: it holds something else, another job, or is at work in another process.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"`{out}` must be a folder to write to, but is a file.")
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"`{out}` must be free, but another process is at work there. Wait for its end.") from None
        _claim(out, json.loads(json.dumps(said)))
        finished = (out / MANIFEST).is_file()
        if finished:
            shutil.rmtree(out / WORK, ignore_errors=True)
        yield finished
    finally:
        os.close(handle)


def _claim(out: Path, said: Line) -> None:
    """Writes down what the folder is for, or compares."""
    path = out / JOB
    if not path.is_file():
        others = sorted(found.name for found in out.iterdir() if found.name != WORK)
        if others:
            raise DataError(
                f"`{out}` must be an empty folder, or one that this job was begun in; it holds `{others[0]}`."
            )
        place(out, JOB, (json.dumps(said, indent=1, ensure_ascii=False) + "\n").encode())
        return
    try:
        before = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"`{path}` cannot be read: {error}. Give another folder.") from error
    names = [name for name in {**before, **said} if before.get(name) != said.get(name)]
    if names:
        told = ", ".join(f"`{name}` was {_short(before.get(name))}, now {_short(said.get(name))}" for name in names)
        raise DataError(f"`{out}` holds another job: {told}. Give another folder, or remove this one.")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def run(job: Job, out: Path, *, engine: Engine, tell: Tell) -> None:
    """Does all units of a job that are not done yet.

    Raises:
        DataError: a process that did the work died.
    """
    for name in ("parts", "drafts"):
        (out / WORK / name).mkdir(parents=True, exist_ok=True)
    for draft in (out / WORK / "drafts").iterdir():
        draft.unlink(missing_ok=True)
    found = (out / WORK / "parts").iterdir()
    done = {int(path.stem) for path in found if path.stem.isdigit() and path.stat().st_size}  # none is empty
    tell(sum(map(job.size, done)), job.bounds[-1])
    for number in engine(job.work, [number for number in range(len(job)) if number not in done], job.unit, out):
        tell(job.size(number), job.bounds[-1])


def do(work: Work, unit: Unit, out: Path) -> int:
    """Does one unit, leaves its part, and returns its number."""
    done = work(unit, out)
    lines = [json.dumps(line, ensure_ascii=False) for line in done.lines]
    lines += [json.dumps(["problem", *problem], ensure_ascii=False) for problem in done.problems]
    place(out, f"{WORK}/parts/{unit.number}.jsonl", "".join(f"{line}\n" for line in lines).encode())
    return unit.number


def parts(job: Job, out: Path) -> Iterator[Done]:
    """Yields what came of each unit, in their order."""
    for number in range(len(job)):
        with (out / WORK / "parts" / f"{number}.jsonl").open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        lines = [row for row in rows if isinstance(row, dict)]
        yield Done(lines, [Problem(*row[1:]) for row in rows if isinstance(row, list)])


def finish(out: Path, manifests: Mapping[str, Path]) -> None:
    """Moves the drafts of the last files to their places, the manifest as the last, and removes what was temporary."""
    for name in sorted(manifests, key=lambda name: name == MANIFEST):
        os.replace(manifests[name], out / name)
    shutil.rmtree(out / WORK, ignore_errors=True)


def draft(out: Path, name: str) -> Path:
    """Where a file is written before it is moved to its place; no other process, on any machine, has the same."""
    return out / WORK / "drafts" / f"{os.uname().nodename}-{os.getpid()}-{name.replace('/', '-')}"


def place(out: Path, name: str, data: bytes) -> None:
    """Writes a file of a job's folder, wholly or not at all.

    Raises:
        DataError: the name leads out of the folder.
    """
    inside = not name.startswith("/") and ".." not in name.split("/")
    must(inside, name, "the name of a file within the folder", value=name)
    path = draft(out, name)
    target = out / name
    for folder in (path.parent, target.parent):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
    with open(path, "wb", buffering=0) as file:
        file.write(data)
    os.replace(path, target)


def identity(index: Index) -> str:
    """Returns what tells a source from another."""
    return f"{len(index)} utterances {index.fingerprint}"


def report(out: Path, index: Index) -> Report:
    """Reads what a finished job made, and says what could not be used."""
    lines, seconds = 0, 0.0
    for line in read_lines(out / MANIFEST):
        lines, seconds = lines + 1, seconds + line["duration"]
    problems = [Problem(**line) for line in read_lines(out / PROBLEMS)]
    for problem in problems[len(index.problems) :][:SHOWN]:
        log.warning("%s", problem)
    return Report(out / MANIFEST, len(index), lines, (index.seconds, seconds), problems)


def read_lines(path: Path) -> Iterator[Line]:
    """Yields the objects of a file of JSON lines that we wrote."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def json_line(line: Line) -> str:
    """Returns an object as a line."""
    return json.dumps(line, ensure_ascii=False) + "\n"
