"""A SLURM cluster of one node, for real: submit, preempt, requeue, finish. Run by `make slurm`, as root.

Debian's ``slurm-wlm`` brings the daemons. A run of two tasks trains in a partition of low priority; a job of high
priority takes the node away; the run must save, go back into the queue, go on where it was and finish, every step taken
once. The batch script is the one `anemone launch` prints.
"""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
EXPERIMENT = "telephone_words_quartznet"
STEPS, EVERY = 60, 5
SETTINGS = (
    f"trainer.max_steps={STEPS}",
    "trainer.max_epochs=null",
    f"trainer.log_every={EVERY}",
    "trainer.eval_every=1000",
    "trainer.batches_per_step=2",
    "checkpoint.save_every=1000",
)
CONF = """
ClusterName=one
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
ReturnToService=2
JobRequeue=1
SchedulerParameters=sched_interval=2,requeue_delay=1
SchedulerTimeSlice=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=120 State=UP
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF State=UP
"""


@contextmanager
def cluster() -> Iterator[Path]:
    """Starts the daemons; ends them, and what they started."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, host = Path(name), os.uname().nodename
        for part in ("state", "spool"):
            (folder / part).mkdir()
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(host=host, folder=folder, cpus=os.cpu_count()))
        os.environ["SLURM_CONF"] = str(conf)
        key, socket = folder / "munge.key", folder / "munge.socket"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        os.environ["MUNGE_SOCKET"] = str(socket)
        conf.write_text(conf.read_text() + f"AuthInfo=socket={socket}\n")
        start(stack, "munged", "-F", "--force", f"--key-file={key}", f"--socket={socket}", *munge_files(folder))
        wait("munged", socket.exists, 10)
        start(stack, "slurmctld", "-D", "-c")
        start(stack, "slurmd", "-D", "-N", host)
        wait("the node", lambda: "idle" in run("sinfo", "-h", "-o", "%T"), 60)
        yield folder


def munge_files(folder: Path) -> list[str]:
    return [f"--{what}-file={folder / f'munge.{what}'}" for what in ("pid", "log", "seed")]


def start(stack: ExitStack, *command: str) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def wait(what: str, ready: Callable[[], bool], seconds: float) -> float:
    """Waits until it is so, and returns the seconds that took."""
    began = time.monotonic()
    while not ready():
        if time.monotonic() - began > seconds:
            print(subprocess.run(["squeue"], capture_output=True, text=True).stdout)
            raise SystemExit(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - began


def state(job: str) -> dict[str, str]:
    """What SLURM knows of a job."""
    return dict(word.split("=", 1) for word in run("scontrol", "show", "job", job).split() if "=" in word)


def steps(folder: Path) -> list[int]:
    """Steps that the run has logged."""
    table = folder / "metrics.csv"
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row.get("train/loss")]


def submit(folder: Path, how: str) -> str:
    """Submits the run in one of the two ways and returns the number of the job."""
    bin_ = Path(sys.executable).parent
    words = [EXPERIMENT, *SETTINGS, f"run.folder={folder}"]
    common = ["--on", "slurm", "--processes", "2", "--partition", "low", "--hours", "1"]
    launch = [
        str(bin_ / "anemone"),
        "launch",
        *words,
        *common,
        "--setup",
        f"export PATH={bin_}:$PATH OMP_NUM_THREADS=1",
    ]
    if how == "submitit":
        return run(*launch, "--submit")
    folder.parent.mkdir(parents=True)
    script = folder.parent / "run.sbatch"
    script.write_text(run(*launch))
    print(run("sbatch", "--test-only", str(script)))
    return run("sbatch", "--parsable", f"--output={folder.parent}/run.out", str(script))


def preempted(folder: Path, how: str) -> None:
    """One run through the whole story."""
    job = submit(folder, how)
    took = wait("the run", lambda: len(steps(folder)) >= 3, 300)
    print(f"{how}: job {job} trains; its third row of metrics came after {took:.0f} s")
    other = run("sbatch", "--parsable", "--partition=high", f"--output={folder.parent}/high.out", "--wrap=sleep 3")
    took = wait("the other job", lambda: state(other)["JobState"] in ("RUNNING", "COMPLETED"), 150)
    saved = [path.name for path in (folder / "checkpoints").glob("step_*")]
    print(f"{how}: job {other} of high priority got the node after {took:.0f} s; saved: {saved}")
    assert saved, "the run did not save when it was preempted"
    wait("the end of the run", lambda: (folder / "results.json").exists(), 600)
    wait("SLURM to see it", lambda: state(job)["JobState"] == "COMPLETED", 60)
    restarts, logged = int(state(job)["Restarts"]), steps(folder)
    print(f"{how}: job {job} completed after {restarts} restart; logged steps {logged[0]}..{logged[-1]}")
    assert restarts == 1
    assert logged == list(range(EVERY, STEPS + 1, EVERY)), f"steps lost or taken twice: {logged}"


def main() -> None:
    missing = [daemon for daemon in DAEMONS if shutil.which(daemon) is None]
    if missing or os.geteuid() != 0:
        raise SystemExit(f"needs root and Debian's slurm-wlm (missing: {', '.join(missing) or 'nothing'})")
    with cluster() as home:
        for how in ("sbatch", "submitit"):
            preempted(home / how / "run", how)
    print("preempted, requeued and finished: both ways")


if __name__ == "__main__":
    main()
