"""An experiment: all settings of a run as one tree, and the run itself."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from anemone.config import must, of_kind
from anemone.data import DATA
from anemone.decoding import DECODERS
from anemone.features import FEATURES
from anemone.features.given import GivenConfig
from anemone.losses import LOSSES
from anemone.models import MODELS
from anemone.parallel.mesh import ParallelConfig
from anemone.tasks import TASKS
from anemone.tasks.task import Task, refuse_strangers
from anemone.training.adapting import AdaptConfig
from anemone.training.evaluation import evaluate as evaluate
from anemone.training.optim import OPTIMIZERS
from anemone.training.precision import PrecisionName
from anemone.training.schedules import SCHEDULES


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long training takes, on what, and what it looks after."""

    max_steps: int | None = None
    """Optimizer steps of the run; this or `max_epochs` must be set, as schedules run over them."""

    max_epochs: int | None = None
    """Passes over the training data; the run ends with the first of the two."""

    max_minutes: float | None = None
    """The run also ends after so many minutes of training, all sittings together."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train; auto takes a GPU if there is one."""

    devices: int = 1
    """Processes on this machine, one for each GPU or share of the CPU; under torchrun or srun their number holds."""

    num_nodes: int = 1
    """Machines; under torchrun or srun their number holds."""

    batches_per_step: int | None = None
    """Micro-batches of an optimizer step over all processes; null takes one for each process that reads data of its own
    when the run starts, and in a pipeline two for each of its ranks."""

    clip_norm: float | None = None
    """A gradient with a larger norm is scaled down to it."""

    ema_decay: float = 0.0
    """Decay of the averaged weights that evaluations and the archive use; 0 for none, 0.999 is usual."""

    max_nonfinite: int = 10
    """So many steps in a row with a loss or gradient that is not finite stop the run; fewer are skipped."""

    log_every: int = 20
    """Steps between two rows of metrics."""

    eval_every: int | None = None
    """Steps between two evaluations on the validation data; null for after each epoch."""

    def __post_init__(self) -> None:
        must(
            bool(self.max_steps or self.max_epochs),
            "max_steps",
            "1 or more, where `max_epochs` is not",
            value=self.max_steps,
        )
        for name in ("max_steps", "max_epochs", "batches_per_step", "eval_every"):
            value = getattr(self, name)
            must(value is None or value >= 1, name, "1 or more", value=value)
        for name in ("devices", "num_nodes", "max_nonfinite", "log_every"):
            must(getattr(self, name) >= 1, name, "1 or more", value=getattr(self, name))
        for name in ("max_minutes", "clip_norm"):
            value = getattr(self, name)
            must(value is None or value > 0, name, "above 0", value=value)
        must(0 <= self.ema_decay < 1, "ema_decay", "at least 0 and below 1", value=self.ema_decay)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved, and which weights it ends with."""

    save_every: int = 500
    """Steps between two saves."""

    keep: int = 2
    """How many training checkpoints stay."""

    asynchronous: bool = False
    """Whether checkpoints are written while training goes on, from a copy in the host's memory."""

    weights: Literal["last", "best"] = "last"
    """Whether the archive gets the last weights or those of the best evaluation on the first validation set."""

    def __post_init__(self) -> None:
        must(self.save_every >= 1, "save_every", "1 or more", value=self.save_every)
        must(self.keep >= 1, "keep", "1 or more", value=self.keep)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run lives and what it shows."""

    folder: str
    """Holds all that the run leaves. Where it holds a run already, that one goes on."""

    seed: int = 0
    """Of initial weights, order of the data, augmentation and dropout."""

    init: str | dict[str, str] | None = None
    """A model whose weights the run starts with: an archive, a pretrained name, a folder in Hugging Face's format; or
    part of the network -> model, such as ``{encoder: old.anemone}``. What is in none is drawn; null draws all. An
    experiment by its name takes what it leaves out of `model`, `features` and `task` from that one model, too."""

    init_only: tuple[str, ...] | None = None
    """Patterns of names of weights or modules; no others are taken from there."""

    init_except: tuple[str, ...] | None = None
    """Patterns of names of weights or modules that are not taken from there."""

    resume: Literal["same", "changed"] = "same"
    """Whether a run may go on with settings that differ in what matters from those it was started with."""

    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Further loggers; metrics.csv and TensorBoard are always there."""

    project: str = "anemone"
    """What the further loggers file the run under."""

    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """How progress is shown; auto shows a bar in a terminal and a line now and then elsewhere."""

    def __post_init__(self) -> None:
        must(bool(self.folder), "folder", "the path of a folder", value=self.folder)
        must(self.seed >= 0, "seed", "0 or more", value=self.seed)
        for name in ("init_only", "init_except"):
            value = getattr(self, name)
            must(value is None or bool(self.init), name, "left out where `init` is", value=value)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """The root of all settings of a run."""

    task: Any = of_kind(TASKS)
    """What the model is for."""

    model: Any = of_kind(MODELS)
    """The encoder of speech, or the model of text."""

    features: Any = of_kind(FEATURES, optional=True)
    """What the encoder of speech sees; null for text."""

    data: Any = of_kind(DATA)
    """What it learns from."""

    loss: Any = of_kind(LOSSES, optional=True)
    """What training makes small; the usual one of the task if null."""

    decoding: Any = of_kind(DECODERS, optional=True)
    """How scores are read; the usual way of the task if null."""

    optim: Any = of_kind(OPTIMIZERS)
    """What moves the weights."""

    schedule: Any = of_kind(SCHEDULES)
    """How its rate changes."""

    precision: PrecisionName = "32"
    """Number format of products; weights are float32 always."""

    adapt: AdaptConfig | None = None
    """What hangs on the network beside its weights, and which of all these move; null moves all."""

    trainer: TrainerConfig
    """How long, on what."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How it is spread over processes."""

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save."""

    run: RunConfig
    """Where the run lives."""

    def __post_init__(self) -> None:
        kinds = {target: kind for kind, target in DATA.items()}
        kind, wanted = kinds[f"{type(self.data).__module__}:{type(self.data).__name__}"], self.task.data
        fits = kind == wanted or (kind, wanted) == ("kaldi", "speech")
        must(fits, "data.kind", f"{wanted}, which the task learns from", value=kind)
        refuse_strangers(self, "speech" if wanted == "speech" else "text")
        if self.adapt:
            tp, fp8 = self.parallel.tp, self.precision.startswith("fp8")
            must(tp in (1, None), "parallel.tp", "1 with adapters (`adapt`)", value=tp)
            must(not fp8, "precision", "without fp8 with adapters (`adapt`)", value=self.precision)
        if self.features is not None:
            name = "hop_ms" if kind == "kaldi" else "rate"
            value, theirs = getattr(self.data, name), getattr(self.features, name)
            noun = name.removesuffix("_ms")
            must(
                value == theirs,
                f"data.{name}",
                f"the {noun} of the features (`features.{name}`, {theirs})",
                value=value,
            )
            deaf = kind != "kaldi" and isinstance(self.features, GivenConfig)
            must(not deaf, "features.kind", "one that hears audio, as the data are", value="given")


class TrainResult(NamedTuple):
    """What a run came to."""

    task: Task
    """The trained task, on the CPU, in evaluation mode; a part of it if a run over shards or stages did not finish."""

    folder: Path
    """Of the run."""

    metrics: dict[str, float]
    """By "set/metric", of the last evaluation."""

    finished: bool
    """False if the run was asked to end before it was done."""


def train(config: ExperimentConfig) -> TrainResult:
    """Trains, evaluates and writes the archive; goes on where the run folder's last checkpoint stands.

    Raises:
        ConfigError: a setting is impossible here, or differs from those the run was started with.
        DataError: the training data cannot be used.
        TrainingError: the loss was not finite too many steps in a row.
    """
    from anemone.training.launch import launch

    return launch(config)
