"""One side of `augment.py`: does its job into each folder it is told, and says how long it took.

python benchmarks/data/augment_sides.py ours|nemo|lhotse|sox FOLDER JOBS SOX
"""

import json
import logging
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pool
from pathlib import Path

FACTORS = 0.9, 1.1
SNR = 0.0, 15.0
Job = Callable[[Path], None]


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ours(folder: Path, jobs: int, sox: str) -> Job:
    from anemone.data.augmentation import Recipe
    from anemone.data.engines import engine
    from anemone.data.offline import OfflineConfig, augment_offline

    noise = {"manifest": str(folder / "noise.jsonl"), "min_snr_db": SNR[0], "max_snr_db": SNR[1], "p": 1}
    recipe = Recipe.parse([{"speed": {"factors": list(FACTORS), "p": 1}}, {"noise": noise}])
    config = OfflineConfig(recipe=recipe, copies=2, keep_original=False)

    def job(out: Path) -> None:
        augment_offline([folder / "speech.jsonl"], out, config, engine=engine("jobs", jobs), tell=max)

    return job


def nemo(folder: Path, jobs: int, sox: str) -> Job:
    """What its offline script does, file by file, with its own classes; `fft` needs no further package."""
    import nemo.collections.asr.parts.preprocessing.perturb  # noqa: F401  before the processes are forked

    def job(out: Path) -> None:
        out.mkdir()
        with Pool(jobs, nemo_begin, (folder, out)) as pool:
            lines = pool.map(nemo_do, rows(folder / "speech.jsonl"), chunksize=16)
        (out / "manifest.json").write_text("".join(json.dumps(line) + "\n" for pair in lines for line in pair))

    return job


def nemo_begin(folder: Path, out: Path) -> None:
    from nemo.collections.asr.parts.preprocessing.perturb import NoisePerturbation, SpeedPerturbation

    logging.disable()
    speeds = [SpeedPerturbation(16_000, "fft", factor, factor, num_rates=1) for factor in FACTORS]
    noise = NoisePerturbation(str(folder / "noise.jsonl"), *SNR)
    nemo_begin.state = speeds, noise, out


def nemo_do(row: dict) -> list[dict]:
    import soundfile
    from nemo.collections.asr.parts.preprocessing.segment import AudioSegment

    speeds, noise, out = nemo_begin.state
    lines = []
    for i, speed in enumerate(speeds):
        audio = AudioSegment.from_file(row["audio_filepath"], target_sr=16_000)
        speed.perturb(audio)
        noise.perturb(audio)
        path = out / f"{Path(row['audio_filepath']).stem}_{i}.wav"
        soundfile.write(path, audio.samples, 16_000, subtype="PCM_16")
        lines.append(row | {"audio_filepath": str(path), "duration": audio.duration})
    return lines


def lhotse(folder: Path, jobs: int, sox: str) -> Job:
    from lhotse import CutSet, MonoCut, Recording

    def cuts(name: str) -> CutSet:
        recordings = [Recording.from_file(row["audio_filepath"]) for row in rows(folder / f"{name}.jsonl")]
        made = [MonoCut(r.id, 0, r.duration, 0, recording=r) for r in recordings]
        return CutSet.from_cuts(made)

    speech, noise = cuts("speech"), cuts("noise")

    def job(out: Path) -> None:
        both = speech.perturb_speed(FACTORS[0]) + speech.perturb_speed(FACTORS[1])
        mixed = both.to_eager().mix(noise, snr=list(SNR), mix_prob=1.0, seed=0, preserve_id="left")
        mixed.to_eager().save_audios(out, num_jobs=jobs, progress_bar=False).to_file(out / "cuts.jsonl")

    return job


def sox(folder: Path, jobs: int, sox: str) -> Job:
    """One process a copy: noise on top of the utterance, as long as it is, then the speed of both."""
    import numpy as np
    import soundfile

    def level(path: str) -> float:
        audio, _ = soundfile.read(path)
        return float(np.sqrt(np.mean(audio**2)))

    rng, noises = random.Random(0), [row["audio_filepath"] for row in rows(folder / "noise.jsonl")]
    levels = {path: level(path) for path in noises}
    commands = []
    for row in rows(folder / "speech.jsonl"):
        path, own = row["audio_filepath"], level(row["audio_filepath"])
        for i, factor in enumerate(FACTORS):
            noise = rng.choice(noises)
            gain = own / levels[noise] * 10 ** (-rng.uniform(*SNR) / 20)
            name = f"{Path(path).stem}_{i}.wav"
            inputs = ["-v", "1", path, "-v", f"{gain:.6f}", noise]
            effects = ["trim", "0", str(row["duration"]), "speed", str(factor), "rate", "16k"]
            commands.append(([sox, "-D", "-V0", "-m", *inputs, "-b", "16"], name, effects))

    def job(out: Path) -> None:
        out.mkdir()

        def one(command: tuple[list[str], str, list[str]]) -> None:
            before, name, effects = command
            subprocess.run([*before, str(out / name), *effects], check=True, stderr=subprocess.DEVNULL)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, commands))

    return job


def main() -> None:
    name, folder, jobs, program = sys.argv[1:]
    job = {"ours": ours, "nemo": nemo, "lhotse": lhotse, "sox": sox}[name](Path(folder), int(jobs), program)
    for line in sys.stdin:
        begun = time.perf_counter()
        job(Path(line.strip()))
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)


if __name__ == "__main__":
    main()
