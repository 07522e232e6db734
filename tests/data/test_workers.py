"""Processes that read: one that the system ends says so, and memory stays where it is however long they read."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

END = """
import ctypes, os, signal, sys, time
from anemone.data.loader import Loader, SpeechDataConfig
from anemone.data.manifest import Index
from anemone.data.plan import PlanConfig
from anemone.errors import DataError

ends = [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: ctypes.string_at(0), lambda: os._exit(3)]
index = Index.read([sys.argv[1]], target="text")
config = SpeechDataConfig(plan=PlanConfig(batch_size=2, shuffle=False), num_workers=2)
for end in ends:
    began = time.monotonic()
    try:
        list(Loader(index, config, lambda text: end() or [0] if text == "20" else [1], training=True))
    except DataError as error:
        print(time.monotonic() - began < 20, str(error).replace("\\n", " "))
print(len(list(Loader(index, config, lambda text: [1], training=True))))
"""


def test_a_worker_that_is_ended_is_an_error_with_what_to_do_and_no_wait(pieces):
    done = subprocess.run([sys.executable, "-c", END, str(pieces)], capture_output=True, text=True, timeout=120)
    *said, last = done.stdout.splitlines() or [done.stderr]
    assert len(said) == 3 and last == "19", done.stderr
    causes = [r"SIGKILL; most often .*`data\.num_workers`", "SIGSEGV; most often", "itself, with exit status 3"]
    for line, cause in zip(said, causes, strict=True):
        assert re.match(rf"True a process that reads data was ended by {cause}.* was to read .*pieces\.jsonl:\d+", line)


READ = """
import json, re, sys
import psutil, torch
from anemone.data.loader import Loader, SpeechDataConfig
from anemone.data.manifest import Index
from anemone.data.plan import PlanConfig

manifest, workers, epochs, cache_mb = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
index = Index.read([manifest], target="text")
plan = PlanConfig(max_batch_seconds=1.0, num_buckets=20)
config = SpeechDataConfig(plan=plan, num_workers=workers, cache_mb=cache_mb)
loader = Loader(index, config, lambda text: [int(text)], training=True)
me = psutil.Process()

def own_of(pid):  # bytes, without the pages of files, which come and go with what other processes do
    text = open(f"/proc/{pid}/smaps_rollup").read()
    return 1024 * sum(int(re.search(rf"^{kind}: *([0-9]+)", text, re.M)[1]) for kind in ("Pss_Anon", "Pss_Shmem"))

for epoch in range(epochs):
    rows = sum(len(batch.rows) for step in loader for batch in step)
    resident = [own_of(process.pid) for process in (me, *me.children(recursive=True))]
    print(json.dumps({"rows": rows, "bytes": sum(resident), "workers": len(resident) - 1}))
"""


def growth(manifest: Path, workers: int, epochs: int) -> tuple[int, float]:
    """Rows of an epoch, and bytes that main process and workers together grow by in one.

    What they share counts once. It is the median of the slopes between any two epochs but the first two: an allocator
    gives pages back and takes them again, megabytes at once.
    """
    command = [sys.executable, "-c", READ, str(manifest), str(workers), str(epochs), "16"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == epochs and {each["workers"] for each in said} == {workers}
    sizes = [each["bytes"] for each in said[2:]]
    slopes = [(sizes[j] - sizes[i]) / (j - i) for i in range(len(sizes)) for j in range(i + 1, len(sizes))]
    return said[0]["rows"], float(np.median(slopes))


def rows_of(folder: Path, count: int, x: np.ndarray) -> Path:
    """A manifest of pieces of 20 to 60 ms: a third of files of their own, the others of a long recording."""
    soundfile.write(folder / "long.wav", np.tile(x, 40), 16_000)
    for i in range(20):
        soundfile.write(folder / f"{i}.flac", x[: 960 + 16 * i], 16_000)
    rng = np.random.default_rng(0)
    with (folder / "rows.jsonl").open("w") as file:
        for i, (offset, duration) in enumerate(
            zip(rng.uniform(0, 39, count), rng.uniform(0.02, 0.06, count), strict=True)
        ):
            row = {"audio_filepath": "long.wav", "offset": round(offset, 3), "duration": round(duration, 3)}
            if i % 3 == 0:
                row = {"audio_filepath": f"{i % 20}.flac", "duration": 0.05}
            file.write(json.dumps(row | {"text": str(i)}) + "\n")
    return folder / "rows.jsonl"


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_does_not_grow_with_epochs(workers, x, tmp_path):
    rows, grown = growth(rows_of(tmp_path, 3_000, x), workers, epochs=14)
    assert rows == 3_000 and grown < 32 * rows


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_does_not_grow_in_ten_epochs_of_two_hundred_thousand(workers, x, tmp_path):
    rows, grown = growth(rows_of(tmp_path, 200_000, x), workers, epochs=10)
    print(f"{workers} workers: an epoch of {rows:,} rows adds {grown:,.0f} bytes")
    assert rows == 200_000 and grown < 2 * rows
