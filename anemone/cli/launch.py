"""Print the file that starts a run on a cluster, or hand the run to SLURM.

  anemone launch llama_8b --on slurm --nodes 4 --gpus 8 parallel.dp_shard=32 > run.sbatch
  anemone launch llama_8b --on slurm --nodes 4 --gpus 8 parallel.dp_shard=32 --submit
  anemone launch llama_8b --on kubernetes --nodes 2 --gpus 8 --image mine:1 --storage runs parallel.dp_shard=16
  anemone launch llama_8b --on skypilot --nodes 2 --gpus 8 --spot parallel.dp_shard=16
  anemone launch llama_8b --on torchrun --nodes 2 --gpus 8 parallel.dp_shard=16

The settings are decoded first, and the layout must fit the processes. A preempted run saves, leaves, and goes on when
the scheduler starts it again; the run folder must lie where all nodes see it.
"""

import argparse
from pathlib import Path
from typing import Any

from anemone.cli import positive
from anemone.cli.clusters import GRACE, SCHEDULERS, Job
from anemone.cli.config import add_experiment
from anemone.config import must
from anemone.training.settings import experiment


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    add_experiment(parser)
    parser.add_argument("--on", required=True, choices=list(SCHEDULERS), help="what starts it")
    parser.add_argument("--nodes", type=positive, default=1, help="machines")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs a machine; 0 trains on CPUs")
    parser.add_argument("--processes", type=positive, help="processes a machine; one a GPU by default")
    parser.add_argument("--cpus", type=positive, help="CPU cores a process")
    parser.add_argument("--hours", type=float, help="limit of one sitting")
    parser.add_argument("--name", help="of the job; that of the run folder by default")
    parser.add_argument("--setup", default="", help="shell line that makes `anemone` a command on the nodes")
    parser.add_argument("--image", help="container image")
    parser.add_argument("--partition", help="of SLURM")
    parser.add_argument("--account", help="of SLURM")
    parser.add_argument("--gpu", default="H100", help="kind of GPU, for SkyPilot")
    parser.add_argument("--storage", help="volume claim (Kubernetes) or bucket (SkyPilot) that holds the run folder")
    parser.add_argument("--spot", action="store_true", help="take machines that can be taken away (SkyPilot)")
    parser.add_argument("--submit", action="store_true", help="hand the run to SLURM now, through submitit")


def run(args: argparse.Namespace) -> int:
    """Prints the file, or submits."""
    from anemone.training.layout import resolved

    config = experiment(args.experiment, args.overrides)
    processes = args.processes or max(1, args.gpus)
    resolved(config, args.nodes * processes)
    folder = config.run.folder
    must(args.gpus >= 0, "--gpus", "0 or more", value=args.gpus)
    must(args.hours is None or args.hours > 0, "--hours", "above 0", value=args.hours)
    must(args.on != "kubernetes" or bool(args.image), "--image", "given for Kubernetes", value=args.image)
    must(not args.submit or args.on == "slurm", "--submit", "used with `--on slurm`", value=args.on)
    words = [args.experiment, *args.overrides]
    if args.on != "torchrun" and not any(word.startswith("run.folder=") for word in words):
        words.append(f"run.folder={folder}")
    job = Job(
        words=tuple(words),
        folder=folder,
        name=args.name or Path(folder).name.lower().replace("_", "-"),
        nodes=args.nodes,
        gpus=args.gpus,
        processes=processes,
        cpus=args.cpus,
        hours=args.hours,
        setup=args.setup,
        image=args.image,
        partition=args.partition,
        account=args.account,
        gpu=args.gpu,
        storage=args.storage,
        spot=args.spot,
    )
    print(f"{submit(job)}\n" if args.submit else SCHEDULERS[args.on](job), end="")
    return 0


def submit(job: Job) -> str:
    """Hands the run to SLURM through submitit and returns the number of the job."""
    from anemone.errors import ConfigError

    try:
        import submitit
    except ImportError as error:
        raise ConfigError('`--submit` needs submitit: pip install "anemone[slurm]"') from error
    executor = submitit.SlurmExecutor(folder=f"{job.folder}/slurm")
    options: dict[str, Any] = {
        "partition": job.partition,
        "account": job.account,
        "gpus_per_node": job.gpus or None,
        "cpus_per_task": job.cpus,
        "time": job.minutes,
        "setup": [job.setup] if job.setup else None,
    }
    executor.update_parameters(
        job_name=job.name,
        nodes=job.nodes,
        ntasks_per_node=job.processes,
        signal_delay_s=GRACE,
        additional_parameters={"requeue": True},
        **{name: value for name, value in options.items() if value is not None},
    )
    return str(executor.submit(Sitting(job)).job_id)


class Sitting:
    """What a task of a submitted job does: it trains, and puts the job back into the queue if that is not done."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self) -> int:
        """Trains; returns the exit status of `anemone train`."""
        import os
        import subprocess

        from anemone.cli import main

        status = main(["train", *self.job.words])
        if status:
            raise SystemExit(status)
        unfinished = not (Path(self.job.folder) / "results.json").exists()
        if unfinished and os.environ.get("SLURM_PROCID") == "0":
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
        return status
