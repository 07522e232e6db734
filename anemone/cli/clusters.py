"""Files that start a run on a cluster: one function a scheduler, from a job to text.

All of them start `anemone train` with the same words on every node. A run that is asked to end (SIGTERM, or the signals
before a time limit) saves and leaves with status 0 and no ``results.json``; the files here start it again then.
"""

import shlex
from dataclasses import dataclass
from typing import Any

GRACE = 120
"""Seconds between the request to end and the end itself; a step and a save must fit into them."""

PORT = 29_500

UNSHARED = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
"""Without it, torchrun of torch 2.13 never tells a node that comes back where the others are."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run on a cluster."""

    words: tuple[str, ...]
    """After ``anemone train``: the experiment and its overrides."""

    folder: str
    """Of the run."""

    name: str
    """Of the job."""

    nodes: int = 1
    """Machines."""

    gpus: int = 0
    """GPUs a machine; 0 trains on CPUs."""

    processes: int = 1
    """Processes a machine."""

    cpus: int | None = None
    """CPU cores a process; the cluster's default if None."""

    hours: float | None = None
    """Limit of one sitting; the cluster's default if None."""

    setup: str = ""
    """A line of shell that makes ``anemone`` a command, such as ``source .venv/bin/activate``."""

    image: str | None = None
    """Container image, where the cluster runs containers."""

    partition: str | None = None
    """SLURM's."""

    account: str | None = None
    """SLURM's."""

    gpu: str = "H100"
    """Name of the GPU, where the cluster has several kinds."""

    storage: str | None = None
    """What holds the run folder: a persistent volume claim (Kubernetes) or a bucket (SkyPilot)."""

    spot: bool = False
    """Whether SkyPilot may take machines that can be taken away."""

    @property
    def train(self) -> str:
        """The words as a shell takes them."""
        return shlex.join(["anemone", "train", *self.words])

    @property
    def minutes(self) -> int | None:
        """The limit in whole minutes."""
        return None if self.hours is None else max(1, round(60 * self.hours))


def torchrun(job: Job) -> str:
    """The command of each node; several meet at ``$HEAD``, the host name of any one of them."""
    meeting = f"--rdzv-backend=c10d --rdzv-id={shlex.quote(job.name)} --rdzv-endpoint=$HEAD:{PORT}"
    return f"{_torchrun(job, meeting)}\n" if job.nodes == 1 else f"{UNSHARED}{_torchrun(job, meeting)}\n"


def _torchrun(job: Job, meeting: str) -> str:
    where = "--standalone" if job.nodes == 1 else f"--nnodes={job.nodes} {meeting}"
    return f"torchrun {where} --nproc-per-node={job.processes} --max-restarts=3 -m {job.train}"


def sbatch(job: Job) -> str:
    """A batch script for SLURM: one task a process, a request to end before the limit, and requeuing."""
    options = {
        "job-name": job.name,
        "nodes": job.nodes,
        "ntasks-per-node": job.processes,
        "gpus-per-node": job.gpus or None,
        "cpus-per-task": job.cpus,
        "time": job.minutes,
        "partition": job.partition,
        "account": job.account,
        "signal": f"TERM@{GRACE}",
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    finished = shlex.quote(f"{job.folder}/results.json")
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            "#SBATCH --requeue",
            "# A run that was asked to end has saved; it goes back into the queue and goes on from there.",
            "trap : TERM  # the tasks hear it, too; this shell waits for them",
            *([job.setup] if job.setup else []),
            f"srun --kill-on-bad-exit=1 {job.train}",
            "status=$?",
            f"test -e {finished} && exit 0",
            'test $status -eq 0 && scontrol requeue "$SLURM_JOB_ID"',
            "exit $status",
            "",
        ]
    )


def pytorchjob(job: Job) -> str:
    """A PyTorchJob (kubeflow.org/v1) for Kubernetes; the run folder must lie on the claim, which all nodes share."""
    import yaml

    limits: dict[str, Any] = {"nvidia.com/gpu": job.gpus} if job.gpus else {}
    if job.cpus:
        limits["cpu"] = job.cpus * job.processes
    start = f"torchrun --max-restarts=3 -m {job.train}"  # the operator says the rest by PET_... variables
    container: dict[str, Any] = {
        "name": "pytorch",
        "image": job.image,
        "command": ["bash", "-c", f"{job.setup} && {start}" if job.setup else start],
        "resources": {"limits": limits},
        "volumeMounts": [{"name": "memory", "mountPath": "/dev/shm"}],
    }
    volumes: list[dict[str, Any]] = [{"name": "memory", "emptyDir": {"medium": "Memory"}}]
    if job.storage:
        container["workingDir"] = "/storage"
        container["volumeMounts"].append({"name": "storage", "mountPath": "/storage"})
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": job.storage}})
    pod = {"terminationGracePeriodSeconds": GRACE, "containers": [container], "volumes": volumes}
    replicas = {"Master": 1, "Worker": job.nodes - 1}
    run: dict[str, Any] = {"cleanPodPolicy": "None"}
    if job.minutes:
        run["activeDeadlineSeconds"] = 60 * job.minutes
    manifest = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": job.name},
        "spec": {
            "nprocPerNode": str(job.processes),
            "runPolicy": run,
            "pytorchReplicaSpecs": {
                role: {"replicas": number, "restartPolicy": "OnFailure", "template": {"spec": pod}}
                for role, number in replicas.items()
                if number
            },
        },
    }
    return yaml.dump(manifest, Dumper=_plain(), sort_keys=False, width=120)


def skypilot(job: Job) -> str:
    """A task for SkyPilot; with a bucket the run folder outlives the machines."""
    import yaml

    resources: dict[str, Any] = {"accelerators": f"{job.gpu}:{job.gpus}"} if job.gpus else {}
    if job.cpus:
        resources["cpus"] = f"{job.cpus * job.processes}+"
    if job.image:
        resources["image_id"] = f"docker:{job.image}"
    if job.spot:
        resources["use_spot"] = True
    task: dict[str, Any] = {"name": job.name, "num_nodes": job.nodes, "workdir": ".", "resources": resources}
    if job.storage:
        task["file_mounts"] = {f"~/sky_workdir/{job.folder}": {"name": job.storage, "mode": "MOUNT"}}
    task["setup"] = job.setup or "pip install ."
    start = _torchrun(job, f"--node-rank=$SKYPILOT_NODE_RANK --master-addr=$HEAD --master-port={PORT}")
    head = 'HEAD=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\n'
    task["run"] = f"{start}\n" if job.nodes == 1 else f"{head}{start}\n"
    return yaml.dump(task, Dumper=_plain(), sort_keys=False, width=120)


SCHEDULERS = {"torchrun": torchrun, "slurm": sbatch, "kubernetes": pytorchjob, "skypilot": skypilot}


def _plain() -> Any:
    """A dumper that repeats what occurs twice, instead of pointing back, and shows lines as lines."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            """Yes."""
            return True

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Plain.add_representer(str, text)
    return Plain
