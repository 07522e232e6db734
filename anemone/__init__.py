"""anemone trains, adapts and runs speech, language and multimodal models, from a laptop to a cluster.

    import anemone

    task = anemone.load("model.anemone")  # or a NeMo archive, or a name out of `anemone models`
    print(task.classify(["recording.wav"])[0].label)

The rooms, in the order in which a batch walks through them:

    data         recordings and texts become batches: a columnar index, a batch plan, augmentation, loaders
    features     what a model sees: log-mel energies, MFCC, SpecAugment, tokenizers
    nn           bricks that several models use
    models       one file for one architecture
    losses       what training makes small
    decoding     from log-probabilities to tokens
    metrics      how good a model is, as states that add
    tasks        what people do with models: `classify`, `transcribe`, `generate`; build, load, save
    training     one optimizer step in plain PyTorch, Lightning around it, optimizers, schedules, resume
    parallel     a network laid out over many processes: one mesh, one function, a table for each architecture
    checkpoint   model archives, opened under limits; readers of other formats
    cli          the command line: `anemone --help`

and under them the ground: `types` (what a tensor means, checked when modules are composed), `config` (YAML in,
dataclasses out), `errors` (what can go wrong, as one tree), `cache` (where downloads and indexes are kept). `testing`
helps to write tests.

Names below are imported when they are first used, so that ``import anemone`` loads no PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anemone.checkpoint.fit import load_part as load_part
    from anemone.checkpoint.registry import pretrained as pretrained
    from anemone.data.audio import load_audio as load_audio
    from anemone.errors import AnemoneError as AnemoneError
    from anemone.tasks import build as build
    from anemone.tasks import load as load
    from anemone.tasks import save as save
    from anemone.tasks.task import Task as Task
    from anemone.training.experiment import train as train
    from anemone.types import Chain as Chain
    from anemone.types import checked as checked
    from anemone.types import ports as ports

    __version__: str

_HOMES = {
    "AnemoneError": "errors",
    "Chain": "types",
    "Task": "tasks.task",
    "build": "tasks",
    "checked": "types",
    "load": "tasks",
    "load_audio": "data.audio",
    "load_part": "checkpoint.fit",
    "ports": "types",
    "pretrained": "checkpoint.registry",
    "save": "tasks",
    "train": "training.experiment",
}

__all__ = [
    "AnemoneError",
    "Chain",
    "Task",
    "build",
    "checked",
    "load",
    "load_audio",
    "load_part",
    "ports",
    "pretrained",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("anemone")
    if name not in _HOMES:
        raise AttributeError(f"module `anemone` has no attribute `{name}`; its names are {', '.join(__all__)}.")
    value = globals()[name] = getattr(importlib.import_module(f"anemone.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
