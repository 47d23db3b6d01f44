"""Faults of GPUs, SLURM, an experiment and its results."""

import errno
import fcntl
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from moe_ray.clusters.doctor.machine import Machine
from moe_ray.errors import ConfigError
from tests.clusters.doctor.machines import (
    GIB,
    add_command,
    gpu,
    in_slurm,
    install,
    with_environment,
    with_experiment,
    write_files,
)
from tests.clusters.doctor.planting import (
    PLANTS as PLANTS,
)
from tests.clusters.doctor.planting import (
    by_experiment,
    by_file,
    by_slurm_settings,
    model,
    plant,
)

# GPUs.


@plant("gpu-count of a step without GPUs")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return in_slurm(machine, SLURM_GPUS_ON_NODE=4, CUDA_VISIBLE_DEVICES="NoDevFiles")


@plant("gpu-count of a variable in the shell")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return replace(with_environment(machine, CUDA_VISIBLE_DEVICES="3"), read_gpus=lambda: (gpu(0), gpu(1)))


by_file("gpu-driver that shows nothing", "proc/driver/nvidia/version", "NVRM version: 570\n")


@plant("gpu-driver in a container")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return in_slurm(machine, SLURM_GPUS_ON_NODE=2, CUDA_VISIBLE_DEVICES="0,1", APPTAINER_CONTAINER="/image.sif")


@plant("torch-cuda is missing")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    for name, version in {"ray": "2.60.0", "torch": "2.10.0+cpu", "transformers": "5.23.0"}.items():
        install(folder / "cpu", name, version)
    return replace(machine, import_path=(str(folder / "cpu"),), read_gpus=lambda: (gpu(),))


@plant("gpu-busy with another process")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return replace(machine, read_gpus=lambda: (gpu(0), gpu(1, used_bytes=40 * GIB)))


# SLURM.

by_slurm_settings("slurm-requeue is off", JobRequeue="0")
by_slurm_settings("slurm-kill-wait of 2 s", KillWait="2 sec")
by_slurm_settings("slurm-proctrack by process group", ProctrackType="proctrack/pgid")
by_slurm_settings("slurm-preemption cancels", PreemptType="preempt/partition_prio", PreemptMode="CANCEL")
by_slurm_settings("slurm-arrays are off", MaxArraySize="0")
by_slurm_settings("slurm-version 20.11", SLURM_VERSION="20.11.9")


@plant("slurm-time-left of a minute")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return in_slurm(machine, SLURM_JOB_END_TIME=1000)


@plant("slurm-variables that contradict")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return in_slurm(machine, SLURM_CPUS_PER_TASK=4, SLURM_TRES_PER_TASK="cpu:4")


@plant("slurm-controller is missing in a container")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    in_job = in_slurm(machine)
    (Path(machine.environment["PATH"]) / "scontrol").unlink()
    return in_job


@plant("slurm-controller fails")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    in_job = in_slurm(machine)
    add_command(machine, "scontrol", "echo 'slurm_load_ctl_conf error: Unable to contact slurm controller'; exit 1")
    return in_job


# The experiment.


@plant("experiment with a mistake")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return replace(machine, wrong_experiment=ConfigError("unknown key here", where="experiment.yaml:3"))


by_experiment("experiment with an unknown setting", model(engine_settings={"attentoin": "sdpa"}))
by_experiment("models without a folder", model(path="./elsewhere"))
by_experiment("models without weights", lambda experiment, folder: (folder / "model/model.bin").unlink())
by_experiment("hub-models offline", model(path="owner/name"), HF_HUB_OFFLINE=1)
by_experiment("data that is missing", lambda experiment, folder: (folder / "rows.jsonl").unlink())
by_experiment(
    "api-keys that are not set",
    model(engine="endpoint", engine_settings={"base_url": "https://api.example.org/v1", "api_key_env": "MY_KEY"}),
)
by_experiment("memory of 100 GiB", model(engine="scripted", engine_settings={"memory_bytes": 100 * GIB}))
by_experiment("memory of 3 GPUs", model(gpus=3))


@plant("sandbox without a box")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    add_command(machine, "bwrap", "echo 'bwrap: No permissions to create new namespace'; exit 1")
    columns = {"id": "id", "question": "question", "tests": "tests"}

    def change(experiment: dict[str, Any], _: Path) -> None:
        experiment["domains"]["parity"] |= {"task": "code", "columns": columns}
        experiment["domains"]["parity"].pop("choices")

    return with_experiment(machine, change)


# Results.

by_experiment("results-folder is a file", lambda experiment, folder: (folder / "results").touch())


@plant("results-lock fails")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    stack.enter_context(mock.patch.object(fcntl, "flock", fail))
    return with_experiment(machine)


@plant("results-lock of one node only")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    checked = with_experiment(machine)
    place = machine.root.parent / "experiment"
    table = f"1 0 0:1 / / rw - ext4 /dev/root rw\n2 1 0:2 / {place} rw - lustre server:/x rw,localflock\n"
    write_files(machine.root, {"proc/self/mountinfo": table})
    return checked


@plant("quota of files")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    add_command(machine, "quota", "echo '/home 900 1000 1200 0 99999* 100000 110000 0'")
    return with_experiment(machine)


@plant("shared-folder that this node does not see")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return replace(machine, meeting=folder / "elsewhere", limit_s=3.0)


@plant("shared-lock that excludes nobody")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    write_files(folder, {"meeting/seen": "", "meeting/locked": ""})
    return replace(machine, meeting=folder / "meeting")
