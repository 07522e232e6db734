"""Trains a recogniser from nothing by us and by the peer, side by side, for the same time, and compares what they hear.

Both start with the same weights of an experiment and the same batches' worth of audio; each has one core for itself and
the same minutes, into which its own schedule is laid by the steps it takes a minute. Features, SpecAugment, precision
and clipping are those of the experiment. The peer reads by Lhotse's buckets and learns by AdamW, as its recipes do.

    python benchmarks/asr/scratch.py EXPERIMENT OUT --peer PYTHON [--minutes 40]

OUT gets the archive, the transcripts of the test set on both sides, and their comparison by `anemone evaluate`.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from anemone.tasks.nemo import save_nemo
from anemone.training.experiment import train
from anemone.training.layout import build_task
from anemone.training.settings import experiment

HERE = Path(__file__).parent
PROBE = 20, 60  # steps of two short runs; the time between them is that of steps alone
LR = 2e-3  # of the peer's AdamW, at this width
BETAS, WEIGHT_DECAY = (0.9, 0.98), 1e-3  # of its recipes for FastConformer


def ours(name: str, out: Path, minutes: float) -> None:
    """Trains for so many minutes and prints how many steps these were."""
    alone = ["data.valid=[]", "data.test=[]", "trainer.max_epochs=null", "run.progress=none"]
    times = []
    for steps in PROBE:
        start = time.perf_counter()
        train(experiment(name, [*alone, f"trainer.max_steps={steps}", f"run.folder={out}/probe_{steps}"]))
        times.append(time.perf_counter() - start)
    steps = int(60 * minutes * (PROBE[1] - PROBE[0]) / (times[1] - times[0]))
    start = time.perf_counter()
    train(experiment(name, [*alone, f"trainer.max_steps={steps}", f"run.folder={out}/run"]))
    print(json.dumps({"steps": steps, "seconds": time.perf_counter() - start}), flush=True)


def prepare(name: str, out: Path, minutes: float) -> Path:
    """Writes the first weights, manifests with absolute paths and settings for the peer; returns the settings' path."""
    config = experiment(name, [f"run.folder={out}/run"])
    save_nemo(build_task(config), out / "start.nemo")
    for part, manifests in (("train", config.data.train), ("test", config.data.test)):
        rows = [
            row | {"audio_filepath": str((Path(manifest).parent / row["audio_filepath"]).resolve())}
            for manifest in manifests
            for row in map(json.loads, Path(manifest).read_text("utf-8").splitlines())
        ]
        (out / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    settings = {
        "start": str(out / "start.nemo"),
        "train": str(out / "train.jsonl"),
        "test": str(out / "test.jsonl"),
        "out": str(out / "peer.jsonl"),
        "minutes": minutes,
        "threads": 1,
        "workers": 0,
        "batch_seconds": config.data.plan.max_batch_seconds,
        "lr": LR,
        "betas": BETAS,
        "weight_decay": WEIGHT_DECAY,
        "warmup": config.schedule.warmup_ratio,
        "precision": {"32": "32-true"}.get(config.precision, config.precision),
        "clip_norm": config.trainer.clip_norm,
    }
    path = out / "settings.json"
    path.write_text(json.dumps(settings))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment")
    parser.add_argument("out", type=Path)
    parser.add_argument("--peer", required=True, help="Python of the peer's environment")
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--ours-alone", action="store_true", help="train our side, in this process")
    args = parser.parse_args()
    out = args.out.resolve()
    if args.ours_alone:
        ours(args.experiment, out, args.minutes)
        return
    out.mkdir(parents=True)
    settings = prepare(args.experiment, out, args.minutes)
    again = [sys.executable, __file__, args.experiment, str(out), "--peer", args.peer, "--minutes", str(args.minutes)]
    sides = {
        "ours": ["taskset", "-c", "0", "env", "OMP_NUM_THREADS=1", *again, "--ours-alone"],
        "peer": [
            "taskset",
            "-c",
            "1",
            "env",
            "OMP_NUM_THREADS=1",
            args.peer,
            str(HERE / "scratch_peer.py"),
            str(settings),
        ],
    }
    running = {name: subprocess.Popen(c, stdout=(out / f"{name}.log").open("w")) for name, c in sides.items()}
    for name, process in running.items():
        if process.wait():
            raise SystemExit(f"{name} ended with status {process.returncode}; see {out / name}.log")
        print(f"{name}: {(out / f'{name}.log').read_text().splitlines()[-1]}", flush=True)
    model, test = str(out / "run" / "model.anemone"), str(out / "test.jsonl")
    words = ["--save", str(out / "ours.jsonl"), "--by", "speaker", "--html", str(out / "report.html")]
    evaluate = [sys.executable, "-m", "anemone", "evaluate", model, test, *words, "--against", str(out / "peer.jsonl")]
    subprocess.run(evaluate, check=True)


if __name__ == "__main__":
    main()
