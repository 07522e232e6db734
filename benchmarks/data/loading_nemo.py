"""The peer's side of `loading.py`: NeMo's dataset in PyTorch's loader, as its models put them together."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from nemo.collections.asr.data.audio_to_text import AudioToCharDataset
from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor
from work import serve

FOLDER = Path(sys.argv[1])
LABELS = list(" abcdefghijklmnopqrstuvwxyz'")


def prepare(item: str) -> Callable[[], int]:
    name, workers, what = item.split()
    front = AudioToMelSpectrogramPreprocessor(
        sample_rate=16_000, window_size=0.025, window_stride=0.01, features=80, n_fft=512, pad_to=0
    ).eval()
    dataset = AudioToCharDataset(
        manifest_filepath=str(FOLDER / f"{name}.jsonl"),
        labels=LABELS,
        sample_rate=16_000,
        channel_selector="average" if name == "stereo" else None,
    )

    def loader() -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(
            dataset,
            batch_size=8,
            shuffle=True,
            collate_fn=dataset.collate_fn,
            num_workers=int(workers),
            persistent_workers=int(workers) > 0,
        )

    def frames(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return front(input_signal=batch[0], length=batch[1])[1]

    def epoch() -> int:
        with torch.inference_mode():
            return sum(int(frames(batch).sum()) for batch in kept)

    def first() -> int:
        with torch.inference_mode():
            return len(frames(next(iter(loader()))))

    kept = loader()
    return {"epoch": epoch, "first": first}[what]


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({item: functools.partial(prepare, item) for item in sys.argv[2:]})
