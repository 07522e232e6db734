"""From an experiment to a finished run: data, task, run folder, Lightning, result."""

import dataclasses
import logging
import os
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from torch.distributed.tensor import DTensor

from anemone import tasks
from anemone.config import encode, must
from anemone.data import Examples
from anemone.data.manifest import Index
from anemone.parallel.apply import check
from anemone.parallel.mesh import ParallelConfig
from anemone.parallel.pipeline import check_count
from anemone.tasks.classification import ClassificationConfig
from anemone.tasks.task import Task
from anemone.training import ranks
from anemone.training.callbacks import Checkpoints, Evaluations, Finish, Metrics, Stopping
from anemone.training.experiment import ExperimentConfig, TrainResult
from anemone.training.layout import build_task, num_shares, resolved, usual_batches
from anemone.training.loggers import build_loggers
from anemone.training.module import TrainingModule
from anemone.training.precision import Precision, precision
from anemone.training.progress import PipeConsole, ProgressBar, narration
from anemone.training.resume import checkpoints
from anemone.training.run import counted, describe_run, occupied, refuse_changes
from anemone.training.strategy import Joined

log = logging.getLogger("anemone.training")

Sets = dict[str, Examples]

SHOWN = 8
"""Labels named in one message."""

HARMLESS = {
    r"The `srun` command is available": "a machine of a cluster may train without it",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated": "Lightning 2.6 under PyTorch 2.13; it works as before",
    r"Found \d+ module\(s\) in eval mode": "normalisation of frozen parts stays in it, as it should",
}
"""Warnings of Lightning that no user can do anything about, and why."""


def launch(config: ExperimentConfig) -> TrainResult:
    """Trains; see `anemone.training.experiment.train`."""
    folder, console = Path(config.run.folder), PipeConsole()
    _precision(config)
    layout(config)
    sets = read_sets(config)
    config = complete(config, sets["train"])
    remarks = [remark for name in sets if (remark := unknown_labels(config, sets, name))] + useless_settings(config)
    task = build_task(config)
    check(task.network, layout(config))
    tree = encode(config)
    if config.run.resume == "same":
        refuse_changes(folder, tree, sets["train"].fingerprint)
    with occupied(folder) if ranks.is_first() else nullcontext(), narration(folder, console):
        if ranks.is_first():
            describe_run(folder, tree, sets)
        start = max(checkpoints(folder / "checkpoints"), default=0)
        module = TrainingModule(
            task,
            config,
            sets,
            total_steps=total_steps(config, task, sets["train"]),
        )
        for remark in remarks:
            log.warning("%s", remark)
        log.info("%s", announcement(module, folder, start))
        with warnings.catch_warnings():
            for message in HARMLESS:
                warnings.filterwarnings("ignore", message)
            trainer = Trainer(
                accelerator=_accelerator(config),
                devices=processes(config)[0],
                num_nodes=processes(config)[1],
                strategy=Joined(config.parallel) if needs_mesh(config) else "auto",
                precision="32-true",
                max_epochs=-1,
                logger=build_loggers(folder, config.run.loggers, project=config.run.project, step=start)
                if ranks.is_first()
                else False,
                callbacks=build_callbacks(config, task, sets, console=console),
                default_root_dir=folder,
                limit_val_batches=0,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(module)
    finished = module.stop == "finished"
    return TrainResult(whole(module, folder, finished), folder, module.ledger.metrics, finished)


def whole(module: TrainingModule, folder: Path, finished: bool) -> Task:
    """The task with all its weights: out of the archive, where a finished run has left each process a part of them."""
    staged = module.parallel is not None and module.parallel.mesh.size("pp") > 1
    spread = staged or any(isinstance(p, DTensor) for p in module.task.parameters())
    archive = folder / "model.anemone"
    return tasks.load(archive) if spread and finished and archive.exists() else module.task.eval()


def read_sets(config: ExperimentConfig) -> Sets:
    """The data: "train", and a set for each file to evaluate on, which is named after it if it has siblings.

    Raises:
        ConfigError: there is nothing to train on.
        DataError: a file does not exist, or holds nothing to use.
    """
    data = config.data
    must(bool(data.train), "data.train", "one or more files", value=data.train)
    read = partial(data.read, task=config.task)
    sets: Sets = {"train": read(data.train)}
    for name, manifests in (("valid", data.valid), ("test", data.test)):
        for manifest in manifests:
            sets[name if len(manifests) == 1 else f"{name}_{Path(manifest).stem}"] = read([manifest])
    return sets


def complete(config: ExperimentConfig, index: Examples) -> ExperimentConfig:
    """Fills in what only the data and the first sitting know: labels, micro-batches a step.

    Raises:
        ConfigError: the micro-batches of a step cannot be shared out to the processes.
    """
    task, trainer, parallel = config.task.complete(index), config.trainer, layout(config)
    shares = num_shares(parallel)
    if trainer.batches_per_step is None:
        started = Path(config.run.folder) / "config.yaml"
        before = yaml.safe_load(started.read_text("utf-8"))["trainer"]["batches_per_step"] if started.exists() else None
        trainer = dataclasses.replace(trainer, batches_per_step=before or usual_batches(parallel))
    rule = f"a multiple of the number of processes that read different data ({shares})"
    number = trainer.batches_per_step or 1
    must(number % shares == 0, "trainer.batches_per_step", rule, value=number)
    if parallel.pp > 1:
        check_count(parallel.schedule, parallel.pp, number // shares)
    return dataclasses.replace(config, task=task, trainer=trainer)


def unknown_labels(config: ExperimentConfig, sets: Sets, name: str) -> str:
    """How many utterances of a set have labels that the task does not know; empty if none.

    Raises:
        ConfigError: no utterance has a label that the task knows, or not all have and none may be left out.
    """
    index = sets[name]
    if not isinstance(config.task, ClassificationConfig) or not isinstance(index, Index):
        return ""
    labels = config.task.labels
    data = {"train": "training", "valid": "validation", "test": "test"}[name.partition("_")[0]]
    counts = {pair["values"]: pair["counts"] for pair in index.table["@target"].value_counts().to_pylist()}
    missing = sorted(counts.keys() - set(labels))
    if not missing:
        return ""
    number = sum(counts[label] for label in missing)
    shown = ", ".join(f"`{label}`" for label in missing[:SHOWN]) + ", ..." * (len(missing) > SHOWN)
    what = f"{number} of {counted(len(index), f'{data} utterance')} are labelled otherwise: {shown}."
    usable = config.data.skip_bad and number < len(index)
    must(usable, "task.labels", f"the labels of the {data} data", value=list(labels), hint=what)
    return f"`task.labels` does not have all labels of the {data} data: {what} They are left out."


def useless_settings(config: ExperimentConfig) -> list[str]:
    """Settings that change nothing, as the run has no validation data, each in a sentence.

    Raises:
        ConfigError: the weights of the best evaluation are asked for.
    """
    if config.data.valid:
        return []
    rule, weights = "last where `data.valid` is empty, as nothing says which are best", config.checkpoint.weights
    must(weights != "best", "checkpoint.weights", rule, value=weights)
    said = "`trainer.eval_every` changes nothing, as `data.valid` is empty."
    return [said] if config.trainer.eval_every else []


def total_steps(config: ExperimentConfig, task: Task, index: Examples) -> int:
    """Steps of the whole run.

    Raises:
        ConfigError: there is not enough data for a step.
    """
    trainer, number = config.trainer, config.trainer.batches_per_step
    loader = config.data.loader(index, task.encode, training=True, seed=config.run.seed, batches_per_step=number)
    of_epochs = loader.total_steps(trainer.max_epochs or 1)
    steps = trainer.max_steps or of_epochs
    return min(steps, of_epochs) if trainer.max_epochs else steps


def build_callbacks(config: ExperimentConfig, task: Task, sets: Sets, *, console: PipeConsole) -> list[Callback]:
    """What happens after each step, in order."""
    folder, trainer, checkpoint = Path(config.run.folder), config.trainer, config.checkpoint
    valid = {name: index for name, index in sets.items() if name.startswith("valid")}
    test = {name: index for name, index in sets.items() if name.startswith("test")}
    best = checkpoint.weights == "best"
    callbacks: list[Callback] = [
        Stopping(trainer.max_minutes),
        Metrics(trainer.log_every),
        Evaluations(valid, every=trainer.eval_every, monitor=task.monitor),
        Checkpoints(folder / "checkpoints", every=checkpoint.save_every, keep=checkpoint.keep, keep_best=best),
    ]
    if ranks.is_first():
        callbacks.append(ProgressBar(config.run.progress, console))
    return [*callbacks, Finish(folder, test, best=best)]


def announcement(module: TrainingModule, folder: Path, start: int) -> str:
    """What a run says first."""
    index = module.index
    how = f"goes on from step {start}" if start else "starts"
    return (
        f"Run `{folder}` {how}: {counted(len(index), index.noun)} {index.extent}, "
        f"{module.num_parameters:,} parameters, {counted(module.total_steps, 'step')}."
    )


def layout(config: ExperimentConfig) -> ParallelConfig:
    """How the run is spread over its processes, with all numbers.

    Raises:
        ConfigError: it cannot be; names the setting.
    """
    return resolved(config, world(config))


def needs_mesh(config: ExperimentConfig) -> bool:
    """Whether the network must be laid out, be it over one process: for copies of its weights, say."""
    return world(config) > 1 or layout(config) != ParallelConfig().resolve(1) or _precision(config).weights is not None


def world(config: ExperimentConfig) -> int:
    """Number of processes of the run."""
    devices, nodes = processes(config)
    return devices * nodes


def processes(config: ExperimentConfig) -> tuple[int, int]:
    """Processes a machine, and machines; what torchrun or SLURM's srun has started goes before the settings."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if "SLURM_STEP_ID" in os.environ and int(os.environ["SLURM_STEP_NUM_TASKS"]) > 1:
        nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
        return int(os.environ["SLURM_STEP_NUM_TASKS"]) // nodes, nodes
    return config.trainer.devices, config.trainer.num_nodes


def _precision(config: ExperimentConfig) -> Precision:
    return precision(config.precision, torch.device(_accelerator(config)))


def _accelerator(config: ExperimentConfig) -> str:
    """ "cpu" or "cuda".

    Raises:
        ConfigError: a GPU is asked for where there is none.
    """
    asked, able = config.trainer.accelerator, torch.cuda.is_available()
    must(asked != "gpu" or able, "trainer.accelerator", "cpu or auto where PyTorch sees no GPU", value=asked)
    return "cuda" if able and asked != "cpu" else "cpu"
