"""Times offline augmentation, ours and that of NeMo, Lhotse and sox: the same job, in one run, in turns.

The job: of each utterance two copies, 0.9 and 1.1 times as fast, with recorded noise on top at 0 to 15 dB, as WAV of 16
bits. Each side is a process that does the job when told to, with so many processes of its own; what it imports and its
first repetition are not timed. Ours makes its manifest, picture and samples within the time. sox gets its commands
ready made: what gain a noise needs is worked out before.

    python benchmarks/data/augment.py --ours PYTHON --peer PYTHON [--sox sox] [--number 1000] [--rounds 5] [--jobs 2]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from anemone.testing import speech

HERE = Path(__file__).parent
REST = 0.5  # seconds before a repetition, so that the other side's threads no longer spin for work
SECONDS = 2.0, 15.0  # of the shortest and the longest utterance
SIDES = {"anemone": "ours", "NeMo's perturbations": "nemo", "Lhotse": "lhotse", "sox": "sox"}


def corpus(folder: Path, number: int) -> None:
    """Writes utterances and noises, with a manifest each."""
    rng = np.random.default_rng(0)
    for name, seconds in (("speech", rng.uniform(*SECONDS, number)), ("noise", np.full(20, 20.0))):
        (folder / name).mkdir()
        rows = []
        for i, duration in enumerate(seconds.round(2).tolist()):
            path = folder / name / f"{name}{i}.wav"
            audio = speech(duration, seed=i)
            audio = np.cumsum(audio - audio[::-1]) * 0.01 if name == "noise" else audio  # a rumble
            soundfile.write(path, audio / max(1, np.abs(audio).max()), 16_000)
            rows.append({"audio_filepath": str(path), "duration": duration, "text": f"{name} {i}"})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Side:
    """A process that does the job when told to."""

    def __init__(self, python: str, name: str, folder: Path, jobs: int, sox: str) -> None:
        paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH")]))
        self.out = folder / f"{name}_out"
        self.process = subprocess.Popen(
            [python, str(HERE / "augment_sides.py"), name, str(folder), str(jobs), sox],
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ANEMONE_CACHE": str(folder / "cache")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self) -> float:
        """Seconds of one repetition, after a look at what it made."""
        assert self.process.stdin and self.process.stdout
        shutil.rmtree(self.out, ignore_errors=True)
        time.sleep(REST)
        print(self.out, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)["seconds"]
        raise SystemExit(f"{self.process.args} ended; run it by hand to see why")

    def made(self) -> tuple[int, float]:
        """Number of recordings that were made, and their seconds."""
        files = [path for path in self.out.rglob("*.wav") if "samples" not in path.parts]
        return len(files), sum(soundfile.info(path).duration for path in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", required=True, help="Python of our environment")
    parser.add_argument("--peer", required=True, help="Python of the peer's environment, with NeMo and Lhotse")
    parser.add_argument("--sox", default="sox", help="the program")
    parser.add_argument("--number", type=int, default=1000, help="utterances")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="processes of each side")
    args = parser.parse_args()
    pythons = {"ours": args.ours, "nemo": args.peer, "lhotse": args.peer, "sox": args.ours}
    if shutil.which(args.sox) is None:
        print(f"`{args.sox}` is not installed: sox is left out")
        del pythons["sox"]
    with tempfile.TemporaryDirectory() as name:
        corpus(Path(name), args.number)
        sides = {side: Side(python, side, Path(name), args.jobs, args.sox) for side, python in pythons.items()}
        for side in sides.values():
            side.ask()
        rounds = [{name: side.ask() for name, side in sides.items()} for _ in range(args.rounds)]
        made = {name: side.made() for name, side in sides.items()}
        for side in sides.values():
            side.process.kill()
    print(f"{args.number} utterances, {args.jobs} processes, median of {args.rounds}\n")
    print("| | seconds | copies a second | recordings, h | / anemone |\n|---|--:|--:|--:|--:|")
    for title, name in SIDES.items():
        if name in sides:
            seconds = statistics.median(each[name] for each in rounds)
            ratio = statistics.median(each[name] / each["ours"] for each in rounds)
            count, hours = made[name][0], made[name][1] / 3600
            print(f"| {title} | {seconds:.2f} | {count / seconds:.0f} | {count}, {hours:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
