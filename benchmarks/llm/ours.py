"""The same training by `anemone train`'s own loop; the feed stands where the loader of the data stands."""

import tempfile
from collections.abc import Iterator

import torch
from work import CLIP, LR, SEQUENCE, WEIGHT_DECAY, Size, arguments, feed, ready

from anemone.data.token_rows import TokenBatch
from anemone.training import module
from anemone.training.experiment import train
from anemone.training.settings import experiment


def steps(size: Size) -> Iterator[module.Step]:
    """The feed as steps of one micro-batch."""
    for number, batch in enumerate(feed(size)):
        rows = torch.arange(len(batch))
        places = torch.arange(SEQUENCE).expand(len(batch), -1)
        one = TokenBatch(batch[:, :-1].contiguous(), batch[:, 1:].contiguous(), places, None, rows)
        yield module.Step(0, number, [one], 0.0)


def main() -> None:
    size, bf16 = arguments()
    shape = {name: number for name, number in size._asdict().items() if name != "vocab_size"}
    settings = [
        "optim=adamw",
        *(f"model.{name}={number}" for name, number in shape.items()),
        "model.size=custom",
        f"task.vocab_size={size.vocab_size}",
        f"optim.lr={LR}",
        f"optim.weight_decay={WEIGHT_DECAY}",
        f"trainer.clip_norm={CLIP}",
        "trainer.max_steps=1000000",
        "data.valid=[]",
        "trainer.eval_every=null",
        "checkpoint.save_every=1000000",
        f"precision={'bf16-mixed' if bf16 else '32'}",
        f"run.folder={tempfile.mkdtemp()}/run",
        "run.progress=none",
    ]
    config = experiment("llama_tiny", settings)

    def train_dataloader(self: module.TrainingModule) -> Iterator[module.Step]:
        ready(sum(p.numel() for p in self.task.network.parameters()))
        return steps(size)

    module.TrainingModule.train_dataloader = train_dataloader
    train(config)


if __name__ == "__main__":
    main()
