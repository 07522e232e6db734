"""Where the recordings of a job go: files in folders, or members of tars that are the same bytes at every run."""

import os
import struct
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anemone.config import must
from anemone.data.jobs import MANIFEST, PROBLEMS, Job, draft, finish, json_line, parts, place
from anemone.data.problems import Problem

EACH = 1000  # files of a folder, at most about
TARRED = "tarred_audio_manifest.json"
BLOCK = tarfile.BLOCKSIZE

Put = Callable[[str, bytes], dict[str, Any]]
"""Keeps a recording under a name that is a `file_stem` with an ending, and returns the manifest's keys that find it."""


def tar_name(number: int) -> str:
    """Name of a shard; NeMo writes all of them as ``audio__OP_0..7_CL_.tar``."""
    return f"audio_{number}.tar"


@contextmanager
def tar_of(out: Path, number: int) -> Iterator[Put]:
    """Gives what puts recordings into a shard; on leaving it is moved into its place, wholly."""
    name = tar_name(number)
    path = draft(out, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:

        def put(member: str, data: bytes) -> dict[str, Any]:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
            at = file.tell()
            file.write(data)
            file.write(bytes(-len(data) % BLOCK))
            return {"audio_filepath": f"{name}?at={at}&size={len(data)}", "member": member, "shard_id": number}

        yield put
        file.write(bytes(2 * BLOCK))
    os.replace(path, out / name)


@contextmanager
def files_of(out: Path, first: int) -> Iterator[Put]:
    """Gives what puts recordings into the folder of a unit whose first row has a number."""
    folder = f"audio/{first // EACH:04d}"

    def put(name: str, data: bytes) -> dict[str, Any]:
        place(out, f"{folder}/{name}", data)
        return {"audio_filepath": f"{folder}/{name}"}

    yield put


def wav(samples: npt.NDArray[Any], rate: int) -> bytes:
    """Returns samples (S,) or (S, channels), integers or floats of 16 to 64 bits, as the plainest WAV file there is.

    It is the same bytes at every run: libsndfile notes the time in files of floats.
    """
    channels, width = (samples.shape[1] if samples.ndim == 2 else 1), samples.dtype.itemsize
    data = np.ascontiguousarray(samples, samples.dtype.newbyteorder("<")).tobytes()
    coding = 3 if samples.dtype.kind == "f" else 1
    form = 16, coding, channels, rate, rate * channels * width, channels * width, 8 * width
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", *form, b"data", len(data))
    return head + data


def bounds(sizes: npt.NDArray[np.float64], *, shards: int | None = None, shard_mb: float | None = None) -> list[int]:
    """Returns where shards begin, and the number of rows: so many shards of about as many rows, or each of a size.

    Args:
        sizes: (N,) bytes of each row.
        shards: number of shards.
        shard_mb: MiB of a shard at most, where a row alone is not larger.

    Raises:
        ConfigError: both or neither is given, or there are more shards than rows.
    """
    must((shards is None) != (shard_mb is None), "shards", "given, or `shard_mb` in its place, not both", value=shards)
    if shards is not None:
        must(1 <= shards <= len(sizes), "shards", f"1 to {len(sizes)}, the number of utterances", value=shards)
        return [round(i * len(sizes) / shards) for i in range(shards + 1)]
    assert shard_mb is not None
    must(shard_mb > 0, "shard_mb", "above 0", value=shard_mb)
    ends, room, limit = [0], 0.0, shard_mb * 2**20
    for i, size in enumerate((sizes + BLOCK + (-sizes % BLOCK)).tolist()):
        if room + size > limit and i > ends[-1]:
            ends.append(i)
            room = 0.0
        room += size
    return [*ends, len(sizes)]


def write_manifests(job: Job, out: Path, problems: Sequence[Problem], *, tarred: bool) -> None:
    """Writes the manifests of a job whose units are all done, and the problems; then the job is finished.

    Args:
        job: the job.
        out: its folder.
        problems: of the source; those of the units follow.
        tarred: whether there are tars, to be listed for NeMo, too.
    """
    drafts = {name: draft(out, name) for name in (PROBLEMS, *([TARRED] if tarred else []), MANIFEST)}
    with ExitStack() as stack:
        files = {name: stack.enter_context(path.open("w", encoding="utf-8")) for name, path in drafts.items()}
        files[PROBLEMS].writelines(json_line(problem._asdict()) for problem in problems)
        for done in parts(job, out):
            files[PROBLEMS].writelines(json_line(problem._asdict()) for problem in done.problems)
            for line in done.lines:
                found = {"audio_filepath": line.pop("member", None), "shard_id": line.pop("shard_id", None)}
                files[MANIFEST].write(json_line(line))
                if tarred:
                    files[TARRED].write(json_line({**line, **found}))
    finish(out, drafts)
