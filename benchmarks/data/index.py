"""Times an index of a million rows, from each format: building it, opening it again, a row of a tar at random.

Every step is a process of its own; memory is its highest, with what it imports.

    python benchmarks/data/index.py [--number 1000000] [--formats jsonl csv lhotse tarred]
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anemone.data.sources.rows import TABLE

FORMATS = {"jsonl": "m.jsonl", "csv": "m.csv", "lhotse": "cuts.jsonl", "tarred": "tarred"}
WORDS = "the", "of", "and", "a", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with"
MEMBERS = 100_000  # of a tar, empty files: what counts is finding them


def make(folder: Path, number: int, form: str) -> None:
    """Writes the rows of a format; recordings are names alone."""
    draw = random.Random(0)
    path = folder / FORMATS[form]
    if form == "tarred":
        return make_tarred(path, number, draw)
    with path.open("w") as file:
        if form == "csv":
            file.write(f"{TABLE['audio'][0]},duration,text,speaker\n")
        for i in range(number):
            audio, seconds, text, speaker = row(i, draw)
            if form == "jsonl":
                line = {"audio_filepath": audio, "duration": seconds, "text": text, "speaker": speaker}
            elif form == "csv":
                file.write(f"{audio},{seconds},{text},{speaker}\n")
                continue
            else:
                said = {"id": str(i), "recording_id": str(i), "start": 0.0, "duration": seconds, "channel": 0}
                source = {"type": "file", "channels": [0], "source": f"/data/{audio}"}
                recording = {"id": str(i), "sources": [source], "sampling_rate": 16_000, "duration": seconds}
                recording |= {"num_samples": round(16_000 * seconds), "channel_ids": [0]}
                line = {"id": str(i), "start": 0.0, "duration": seconds, "channel": 0, "type": "MonoCut"}
                line |= {"supervisions": [said | {"text": text, "speaker": speaker}], "recording": recording}
            file.write(json.dumps(line) + "\n")
    return None


def make_tarred(folder: Path, number: int, draw: random.Random) -> None:
    """Writes tars of empty files and their manifest."""
    import tarfile

    folder.mkdir()
    with (folder / "tarred_audio_manifest.json").open("w") as manifest:
        for shard in range(-(-number // MEMBERS)):
            with (folder / f"audio_{shard}.tar").open("wb") as tar:
                for i in range(shard * MEMBERS, min((shard + 1) * MEMBERS, number)):
                    audio, seconds, text, _ = row(i, draw)
                    member = audio.replace("/", "_")
                    tar.write(tarfile.TarInfo(member).tobuf(tarfile.USTAR_FORMAT))
                    line = {"audio_filepath": member, "duration": seconds, "text": text, "shard_id": shard}
                    manifest.write(json.dumps(line) + "\n")
                tar.write(bytes(1024))


def row(i: int, draw: random.Random) -> tuple[str, float, str, str]:
    """Recording, seconds, text and speaker of an utterance."""
    text = " ".join(draw.choices(WORDS, k=draw.randint(3, 20)))
    return f"clips/{i // 1000:04d}/utt_{i:07d}.flac", round(draw.uniform(1, 20), 2), text, f"s{i % 500}"


def work(path: str) -> None:
    """Reads an index and says what it took."""
    from anemone.data.manifest import Index

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall, cpu = time.perf_counter(), time.process_time()
    index = Index.read([path], target="text")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    start = time.perf_counter()
    index.rows([(7919 * i) % len(index) for i in range(1000)])
    rows = (time.perf_counter() - start) / 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert index.path is not None
    size = index.path.stat().st_size / 2**20
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak, "before": before, "size": size, "row": rows}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args.work)
    print("| format | step | s | s of a core | MB, highest | of these before | MB of the index | µs a row |")
    print("|---|---|---|---|---|---|---|---|")
    for form in args.formats:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), args.number, form)
            environment = os.environ | {"ANEMONE_CACHE": f"{folder}/cache"}
            command = [sys.executable, __file__, "--work", f"{folder}/{FORMATS[form]}"]
            for step in ("build", "open again"):
                ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                took = json.loads(ran.stdout)
                print(
                    f"| {form} | {step} | {took['wall']:.2f} | {took['cpu']:.2f} | {took['peak']:.0f} "
                    f"| {took['before']:.0f} | {took['size']:.0f} | {1e6 * took['row']:.1f} |",
                    flush=True,
                )
    return None


if __name__ == "__main__":
    main()
