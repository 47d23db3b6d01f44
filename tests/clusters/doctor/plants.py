"""Faults: functions that spoil a clean machine, each in one place."""

import errno
import fcntl
import os
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from moe_ray.clusters.doctor.machine import Machine
from moe_ray.errors import ConfigError
from moe_ray.execution.discovery import FoundCluster
from tests.clusters.doctor.machines import (
    GIB,
    LIMITS,
    add_command,
    gpu,
    in_slurm,
    install,
    with_environment,
    with_experiment,
    write_files,
)

# Given the clean machine, a folder for files, and what ends with the test; returns the spoilt machine.
Plant = Callable[[Machine, Path, ExitStack], Machine]
PLANTS: dict[str, Plant] = {}


def plant(name: str) -> Callable[[Plant], Plant]:
    """Register a fault. The first word of its name is the check that must find it."""

    def register(function: Plant) -> Plant:
        assert name not in PLANTS
        PLANTS[name] = function
        return function

    return register


def by_environment(name: str, **variables: object) -> None:
    plant(name)(lambda machine, folder, stack: with_environment(machine, **variables))


def by_slurm_settings(name: str, **settings: str) -> None:
    plant(name)(lambda machine, folder, stack: in_slurm(machine, settings))


def by_file(name: str, file: str, text: str) -> None:
    """Plant a file of the machine's kernel or of a container."""

    @plant(name)
    def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
        write_files(machine.root, {file: text})
        return machine


def by_experiment(name: str, change: Callable[[dict[str, Any], Path], None], **variables: object) -> None:
    plant(name)(lambda machine, folder, stack: with_environment(with_experiment(machine, change), **variables))


def model(**keys: Any) -> Callable[[dict[str, Any], Path], None]:
    return lambda experiment, folder: experiment["models"]["base"].update(keys)


# Limits.


@plant("open-files hard limit of 1024")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return replace(machine, limit_of={**LIMITS, resource.RLIMIT_NOFILE: (256, 1024)}.__getitem__)


@plant("processes limit of 100")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return replace(machine, limit_of={**LIMITS, resource.RLIMIT_NPROC: (100, 100)}.__getitem__)


@plant("shared-memory is missing")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    (machine.root / "dev/shm").rmdir()
    return machine


@plant("cpu-count bound to 2 of 8")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return replace(machine, num_allowed_cpus=2)


by_file("processes in the control group", "sys/fs/cgroup/job/pids.max", "200\n")
by_file("overcommit refused", "proc/sys/vm/overcommit_memory", "2\n")
by_file("cpu-count of an inner control group", "sys/fs/cgroup/job/cpu.max", "200000 100000\n")
by_file("memory-limit of an inner control group", "sys/fs/cgroup/job/memory.max", f"{8 * GIB}\n")


# Folders.

by_environment("temp-length of 90 bytes", RAY_TMPDIR="/tmp/" + "x" * 80)


@plant("temp-network on NFS")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    place = machine.environment["RAY_TMPDIR"]
    table = f"1 0 0:1 / / rw - ext4 /dev/root rw\n2 1 0:2 / {place} rw - nfs4 server:/x rw,local_lock=none\n"
    write_files(machine.root, {"proc/self/mountinfo": table})
    return machine


@plant("temp-owner is another user")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    (Path(machine.environment["RAY_TMPDIR"]) / "ray").mkdir(mode=0o755)
    return replace(machine, user_id=os.geteuid() + 1000)


@plant("cache-folder below a file")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    (folder / "a-file").touch()
    return with_environment(machine, MOE_RAY_CACHE=folder / "a-file" / "cache")


# Packages.


@plant("packages without torch")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    install(folder / "others", "ray", "2.60.0")
    install(folder / "others", "transformers", "5.23.0")
    return replace(machine, import_path=(str(folder / "others"),))


@plant("packages with an old ray")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    for name, version in {"ray": "2.9.3", "torch": "2.10.0", "transformers": "5.23.0"}.items():
        install(folder / "old", name, version)
    return replace(machine, import_path=(str(folder / "old"),))


@plant("ray-command of another Python")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    path = Path(machine.environment["PATH"]) / "ray"
    path.write_text(f"#!{sys.executable}\n")
    path.chmod(0o755)
    return machine


@plant("import-path with two copies of torch")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    install(folder / "user-site", "torch", "2.10.0")
    return replace(machine, import_path=(str(folder / "user-site"), *machine.import_path))


# Ray.


@plant("ray-address where nothing listens")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return with_environment(machine, RAY_ADDRESS=f"127.0.0.1:{unused.getsockname()[1]}")


by_environment("ray-address of a dashboard", RAY_ADDRESS="http://127.0.0.1:8265")


@plant("ray-address auto inside SLURM")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return with_environment(in_slurm(machine), RAY_ADDRESS="auto")


@plant("other-ray of this user")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return replace(machine, found_clusters=lambda: (FoundCluster("10.0.0.1:6379", "me", True),))


@plant("other-ray of another user, on GPUs")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    others = (FoundCluster("10.0.0.1:6379", "you", False),)
    return replace(machine, found_clusters=lambda: others, read_gpus=lambda: (gpu(),))


by_environment("ray-variables left in the shell", RAY_API_SERVER_ADDRESS="http://old:8265")
by_environment("token-value in the environment", RAY_AUTH_TOKEN="0123456789abcdef")
by_environment("token-file that is missing", RAY_AUTH_TOKEN_PATH="/nowhere/token")


@plant("token-file that others can read")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    write_files(machine.home, {".ray/auth_token": "secret-token"})
    (machine.home / ".ray/auth_token").chmod(0o644)
    return machine


@plant("token-file that is empty")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    write_files(machine.home, {".ray/auth_token": "\n"})
    return with_environment(machine, RAY_AUTH_MODE="token")


@plant("token-mode is not set")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    write_files(machine.home, {".ray/auth_token": "secret-token"})
    (machine.home / ".ray/auth_token").chmod(0o600)
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return with_environment(machine, RAY_ADDRESS=f"127.0.0.1:{server.getsockname()[1]}")


# Network.


@plant("host-name is 127.0.1.1")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    addresses = {"node1": ("127.0.1.1",), "node2": ("10.0.0.2",)}
    return replace(in_slurm(machine), addresses_of=addresses.__getitem__)


@plant("node-names without an address")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    def addresses_of(name: str) -> tuple[str, ...]:
        if name == "node2":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ("10.0.0.1",)

    return replace(in_slurm(machine), addresses_of=addresses_of)


by_environment("proxy without exceptions", http_proxy="http://user:hidden-password@proxy:3128")
by_experiment(
    "proxy of an endpoint in the cluster",
    model(engine="endpoint", engine_settings={"base_url": "http://10.1.2.3:8000/v1"}),
    https_proxy="http://proxy:3128",
    no_proxy="localhost,127.0.0.1",
)


@plant("endpoints that do not listen")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    return with_experiment(machine, model(engine="endpoint", engine_settings={"base_url": url}))


@plant("serving-port is taken")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    port = server.getsockname()[1]
    return with_experiment(machine, lambda experiment, _: experiment.update(serving={"port": port}))


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
    return replace(machine, meeting=folder / "elsewhere", limit_s=1.0)


@plant("shared-lock that excludes nobody")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    write_files(folder, {"meeting/seen": "", "meeting/locked": ""})
    return replace(machine, meeting=folder / "meeting")
