"""Our side: the same work as `peer_nemo.py`, put together from anemone's parts."""

from collections.abc import Callable

import torch
from work import VOCABULARY, batch, serve

from anemone.data.batch import Batch
from anemone.features.mel import LogMelConfig
from anemone.features.tokenizers import CharactersConfig
from anemone.models.speech.quartznet import QuartzNetConfig
from anemone.tasks import build
from anemone.tasks.recognition import RecognitionConfig
from anemone.tasks.task import Task, inference
from anemone.training.engine import Engine
from anemone.training.optim import AdamWConfig


def quartznet() -> Task:
    """QuartzNet 5x5 over 64 mel bins with a CTC head of 64 units."""
    units = tuple(chr(0x3400 + i) for i in range(VOCABULARY))
    return build(
        RecognitionConfig(tokenizer=CharactersConfig(characters=units)),
        QuartzNetConfig(size="5x5", dropout=0.1),
        LogMelConfig(num_mels=64, window_ms=20, hop_ms=10, n_fft=512, pad_to=16),
    )


def size(task: Task) -> int:
    return sum(p.numel() for p in task.parameters())


def log_mel() -> Callable[[], int]:
    front = LogMelConfig(num_mels=80, window_ms=25, hop_ms=10, n_fft=512, pad_to=0).build().eval()
    audio, audio_len, *_ = batch()

    def work() -> int:
        with torch.inference_mode():
            return front(audio, audio_len).x.numel()

    return work


def train(task: Task) -> Callable[[], int]:
    """Steps of training."""
    engine = Engine(task, AdamWConfig(lr=1e-3).build(task), lambda step: 1.0)
    audio, audio_len, targets, target_len = batch()
    one = Batch(audio, audio_len, targets, target_len, torch.arange(4))

    def work() -> int:
        engine.step([one])
        return size(task)

    return work


def infer(task: Task, count: int = 4) -> Callable[[], int]:
    """Labels of frames of the first recordings."""
    audio, audio_len = (x[:count] for x in batch()[:2])

    def work() -> int:
        with inference(task):
            task(audio, audio_len)[0].argmax(-1)
        return size(task)

    return work


if __name__ == "__main__":
    torch.set_num_threads(2)
    serve(
        {
            "log_mel": log_mel,
            "quartznet_train": lambda: train(quartznet()),
            "quartznet_infer": lambda: infer(quartznet()),
        }
    )
