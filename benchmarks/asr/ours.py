"""Our side: the archives that `peer.py` wrote, loaded with `anemone.load`.

python benchmarks/asr/ours.py FOLDER
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

import anemone
from anemone.data.batch import Batch
from anemone.tasks.task import Task, inference
from anemone.training.engine import Engine
from anemone.training.optim import AdamWConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import batch, serve


def size(task: Task) -> int:
    return sum(p.numel() for p in task.parameters())


def train(folder: Path, kind: str) -> Callable[[], int]:
    task = anemone.load(folder / f"{kind}.nemo").train()
    engine = Engine(task, AdamWConfig(lr=1e-3).build(task), lambda step: 1.0)
    audio, audio_len, targets, target_len = batch()
    one = Batch(audio, audio_len, targets, target_len, torch.arange(4))

    def work() -> int:
        engine.step([one])
        return size(task)

    return work


def infer(folder: Path, count: int) -> Callable[[], int]:
    task = anemone.load(folder / "ctc.nemo")
    audio, audio_len = (x[:count] for x in batch()[:2])

    def work() -> int:
        with inference(task):
            task(audio, audio_len)[0].argmax(-1)
        return size(task)

    return work


if __name__ == "__main__":
    torch.set_num_threads(2)
    place = Path(sys.argv[1])
    serve(
        {
            "ctc_train": lambda: train(place, "ctc"),
            "transducer_train": lambda: train(place, "transducer"),
            "ctc_infer": lambda: infer(place, 4),
            "ctc_infer_one": lambda: infer(place, 1),
        }
    )
