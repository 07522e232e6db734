"""Our side of `loading.py`: the loader, and log-mel features in the main process."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from work import serve

from anemone.data.loader import Loader, SpeechDataConfig
from anemone.data.manifest import Index
from anemone.data.plan import PlanConfig
from anemone.features.mel import LogMelConfig
from anemone.features.tokenizers import CharactersConfig

FOLDER = Path(sys.argv[1])
CHARACTERS = CharactersConfig(characters=tuple(" abcdefghijklmnopqrstuvwxyz'"))


def prepare(item: str) -> Callable[[], int]:
    name, workers, what = item.split()
    front = LogMelConfig(num_mels=80, window_ms=25, hop_ms=10, n_fft=512).build().eval()
    index = Index.read([FOLDER / f"{name}.jsonl"], target="text")
    config = SpeechDataConfig(plan=PlanConfig(batch_size=8), num_workers=int(workers), cache_mb=0)
    encode = CHARACTERS.build().encode

    def loader() -> Loader:
        return Loader(index, config, encode, training=True)

    def epoch() -> int:
        with torch.inference_mode():
            return sum(int(front(b.audio, b.audio_len).x_len.sum()) for step in kept for b in step)

    def first() -> int:
        with torch.inference_mode():
            ((batch,),) = (step for step, _ in zip(loader(), range(1), strict=False))
            return len(front(batch.audio, batch.audio_len).x)

    kept = loader()
    return {"epoch": epoch, "first": first}[what]


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({item: functools.partial(prepare, item) for item in sys.argv[2:]})
