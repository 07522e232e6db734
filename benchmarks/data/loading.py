"""Times how fast utterances reach a model, by us and by NeMo's dataset: the same manifests, in one run, in turns.

A repetition is an epoch: decode, resample, tokenise, collate, bring to the main process, and there compute log-mel
features on one thread. Workers live on from epoch to epoch on both sides, and nothing decoded is kept by either. The
first batch is timed with a new loader, so that it includes starting the workers.

    python benchmarks/data/loading.py --ours PYTHON --peer PYTHON [--rounds 5] [--sets wav ...] [--workers 0 2]
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from anemone.data.audio import resample
from anemone.testing import speech

HERE = Path(__file__).parent
REST = 0.5  # seconds before a repetition, so that the other side's threads no longer spin for work
SECONDS = 3.0, 7.1  # of the shortest and the longest utterance
SETS = {
    "wav": "wav, 16 kHz",
    "flac": "flac, 16 kHz",
    "mp3": "mp3, 16 kHz",
    "stereo": "wav, 44.1 kHz, stereo",
    "long": "pieces of a wav of 33 min",
}


def corpus(folder: Path, number: int) -> None:
    """Writes a manifest for each set, all of the same utterances."""
    lengths = (np.random.default_rng(0).uniform(*SECONDS, number) * 16).round() / 16  # exact in every rounding
    clips = [speech(seconds, seed=i) for i, seconds in enumerate(lengths.tolist())]
    rows = [
        {"duration": s, "text": f"the number is {'abcdefgh'[i % 8] * (i % 30)}"} for i, s in enumerate(lengths.tolist())
    ]
    for name in SETS:
        (folder / name).mkdir()
    soundfile.write(folder / "long" / "all.wav", np.concatenate(clips), 16_000)
    starts = np.cumsum([0, *map(len, clips)]) / 16_000
    for name in SETS:
        for i, (row, clip) in enumerate(zip(rows, clips, strict=True)):
            path = folder / name / (f"{i}.{name}" if name in ("flac", "mp3") else f"{i}.wav")
            if name == "long":
                row |= {"audio_filepath": str(folder / name / "all.wav"), "offset": float(starts[i])}
                continue
            row |= {"audio_filepath": str(path), "offset": 0.0}
            stereo = name == "stereo"
            audio = np.stack([resample(clip, 16_000, 44_100)] * 2, 1) if stereo else clip
            soundfile.write(path, audio, 44_100 if stereo else 16_000)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Side:
    """A process that reads an epoch when told to."""

    def __init__(self, python: str, script: str, folder: Path, items: list[str]) -> None:
        paths = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [python, str(HERE / script), str(folder), *items],
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ANEMONE_CACHE": str(folder / "cache")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, item: str) -> dict[str, float]:
        """Seconds of one repetition, and how many frames of features it gave."""
        assert self.process.stdin and self.process.stdout
        time.sleep(REST)
        print(item, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.process.args} ended at {item}; run it by hand to see why")


def measure(ours: Side, peer: Side, item: str, rounds: int) -> tuple[float, float, float]:
    """Medians of the seconds of both, and of the ratios of the pairs; the first pair does not count."""
    sizes = ours.ask(item)["size"], peer.ask(item)["size"]
    assert sizes[0] == sizes[1], f"{item}: not the same work: {sizes}"
    times = [(ours.ask(item)["seconds"], peer.ask(item)["seconds"]) for _ in range(rounds)]
    us, them = (statistics.median(side) for side in zip(*times, strict=True))
    return us, them, statistics.median(b / a for a, b in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", required=True, help="Python of our environment")
    parser.add_argument("--peer", required=True, help="Python of the peer's environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--workers", nargs="*", type=int, default=[0, 2])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        corpus(Path(temporary), args.utterances)
        items = [f"{name} {n} {what}" for name in args.sets for n in args.workers for what in ("epoch", "first")]
        ours = Side(args.ours, "loading_ours.py", Path(temporary), items)
        peer = Side(args.peer, "loading_nemo.py", Path(temporary), items)
        print(
            "| utterances per second | workers | anemone | NeMo 3.0.0 | anemone / NeMo | first batch, ms | NeMo, ms |"
        )
        print("|---|--:|--:|--:|--:|--:|--:|")
        for name in args.sets:
            for workers in args.workers:
                us, them, ratio = measure(ours, peer, f"{name} {workers} epoch", args.rounds)
                first, their_first, _ = measure(ours, peer, f"{name} {workers} first", args.rounds)
                speeds = f"{args.utterances / us:,.0f} | {args.utterances / them:,.0f} | {ratio:.2f}"
                latencies = f"{1000 * first:.0f} | {1000 * their_first:.0f}"
                print(f"| {SETS[name]} | {workers} | {speeds} | {latencies} |", flush=True)
        for side in (ours, peer):
            side.process.kill()
            side.process.wait()


if __name__ == "__main__":
    main()
