"""Files that start runs: they fit the schedulers' schemas, and say the same words on every node."""

import dataclasses
import json
import os
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from anemone.cli.clusters import GRACE, Job, pytorchjob, sbatch, skypilot, torchrun

SCHEMAS = Path(__file__).parents[1] / "golden" / "schemas"
JOB = Job(
    words=("llama_8b", "parallel.tp=8", "run.folder=runs/my run"),
    folder="runs/my run",
    name="my-run",
    nodes=4,
    gpus=8,
    processes=8,
    cpus=6,
    hours=1.5,
    setup="source .venv/bin/activate",
    image="mine:1",
    storage="runs",
)
TRAIN = "anemone train llama_8b parallel.tp=8 'run.folder=runs/my run'"


def schema(name):
    return json.loads((SCHEMAS / name).read_text("utf-8"))


@pytest.mark.parametrize("changes", [{}, {"nodes": 1}, {"gpus": 0, "cpus": None, "hours": None, "storage": None}])
def test_a_pytorchjob_fits_its_schema_and_has_all_nodes(changes):
    job = dataclasses.replace(JOB, **changes)
    manifest = yaml.safe_load(pytorchjob(job))
    jsonschema.validate(manifest, schema("pytorchjob-1.9.0.json"))
    replicas = manifest["spec"]["pytorchReplicaSpecs"]
    assert sum(spec["replicas"] for spec in replicas.values()) == job.nodes
    assert manifest["spec"]["nprocPerNode"] == str(job.processes)
    for spec in replicas.values():
        (container,) = spec["template"]["spec"]["containers"]
        assert container["name"] == "pytorch"  # the operator looks for this one
        assert container["command"][-1].endswith(f"-m {TRAIN}")
        assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == GRACE


def test_the_schema_of_pytorchjobs_refuses_what_it_does_not_know():
    manifest = yaml.safe_load(pytorchjob(JOB))
    manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["comand"] = []
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.validate(manifest, schema("pytorchjob-1.9.0.json"))


@pytest.mark.parametrize("changes", [{}, {"nodes": 1, "spot": True}, {"gpus": 0, "image": None, "storage": None}])
def test_a_skypilot_task_fits_its_schema(changes):
    job = dataclasses.replace(JOB, **changes)
    task = yaml.safe_load(skypilot(job))
    jsonschema.validate(task, schema("skypilot-task-0.14.1.json"))
    assert task["num_nodes"] == job.nodes and task["run"].rstrip().endswith(TRAIN)
    assert ("$SKYPILOT_NODE_RANK" in task["run"]) == (job.nodes > 1)
    assert subprocess.run(["bash", "-n"], input=task["run"], text=True).returncode == 0


def test_torchrun_meets_at_one_node_or_stands_alone():
    words = shlex.split(torchrun(JOB))
    assert words[:2] == ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", "torchrun"] and words[-5:] == [
        "anemone",
        "train",
        *JOB.words,
    ]
    assert {"--nnodes=4", "--nproc-per-node=8", "--rdzv-endpoint=$HEAD:29500"} <= set(words)
    assert "--standalone" in torchrun(dataclasses.replace(JOB, nodes=1))


def test_a_batch_script_asks_slurm_for_what_the_job_needs():
    options = [line.removeprefix("#SBATCH --") for line in sbatch(JOB).splitlines() if line.startswith("#SBATCH")]
    assert {"nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=6", "time=90", "requeue"} <= set(options)
    assert f"signal=TERM@{GRACE}" in options
    assert not any("None" in option for option in options)


@pytest.mark.parametrize(
    ("status", "finished", "leaves", "requeued"),
    [(0, True, 0, False), (0, False, 0, True), (3, False, 3, False)],
    ids=["finished", "asked to end", "failed"],
)
def test_a_batch_script_requeues_what_was_asked_to_end_and_nothing_else(tmp_path, status, finished, leaves, requeued):
    tools, folder = tmp_path / "bin", tmp_path / "runs/my run"
    tools.mkdir()
    folder.mkdir(parents=True)
    done = f"touch '{folder}/results.json'" if finished else ":"
    (tools / "srun").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/asked\n{done}\nexit {status}\n')
    (tools / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    job = dataclasses.replace(JOB, folder=str(folder), setup="")
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    ran = subprocess.run(["bash"], input=sbatch(job), text=True, env=environment)
    assert ran.returncode == leaves
    assert "anemone train llama_8b" in (tmp_path / "asked").read_text()
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text().split() == ["requeue", "17"]
