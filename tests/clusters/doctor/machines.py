"""A machine on which all is well, made of files in a folder, for tests to spoil in one place."""

import resource
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from moe_ray.clusters.doctor.machine import Machine
from moe_ray.config.load import load_experiment
from moe_ray.execution.gpus import GpuReading

GIB = 1 << 30
FILES = {
    "proc/meminfo": f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {60 * GIB // 1024} kB\n",
    "proc/self/cgroup": "0::/job\n",
    "proc/self/mountinfo": "1 0 0:1 / / rw - ext4 /dev/root rw\n",
    "proc/sys/vm/overcommit_memory": "0\n",
    "sys/fs/cgroup/job/memory.max": "max\n",
    "sys/fs/cgroup/job/pids.max": "max\n",
    "sys/fs/cgroup/job/cpu.max": "max 100000\n",
}
PACKAGES = {"ray": "2.60.0", "torch": "2.10.0", "transformers": "5.23.0"}
LIMITS = {
    resource.RLIMIT_NOFILE: (65536, 65536),
    resource.RLIMIT_NPROC: (65536, 65536),
    resource.RLIMIT_MEMLOCK: (8 << 20, 8 << 20),
}
SETTINGS = {
    "JobRequeue": "1", "KillWait": "30 sec", "ProctrackType": "proctrack/cgroup", "PreemptType": "preempt/none",
    "PreemptMode": "OFF", "SLURM_VERSION": "22.05.8", "MaxArraySize": "1001",
}  # fmt: skip


def clean_machine(folder: Path, short_folder: Path) -> Machine:
    """A machine without SLURM and without a GPU, below `folder`; its home and Ray's folder are in `short_folder`."""
    write_files(folder / "root", FILES)
    for name in ("root/tmp", "root/dev/shm", "bin", "packages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    short_folder.chmod(0o1777)
    (short_folder / "home").mkdir()
    for name, version in PACKAGES.items():
        install(folder / "packages", name, version)
    return Machine(
        environment={"HOME": str(short_folder / "home"), "PATH": str(folder / "bin"), "RAY_TMPDIR": str(short_folder)},
        host="node1",
        user_id=1000,
        prefix=folder / "venv",
        import_path=(str(folder / "packages"),),
        root=folder / "root",
        limit_of=LIMITS.__getitem__,
        addresses_of=lambda name: ("10.0.0.1",),
        read_gpus=lambda: (),
        found_clusters=lambda: (),
    )


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def install(folder: Path, name: str, version: str) -> None:
    """Put an empty package and its metadata into a folder of the import path."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    write_files(folder, {f"{name}/__init__.py": "", f"{name}-{version}.dist-info/METADATA": metadata})


def with_environment(machine: Machine, **variables: object) -> Machine:
    return replace(
        machine, environment={**machine.environment, **{key: str(value) for key, value in variables.items()}}
    )


def add_command(machine: Machine, name: str, script: str) -> None:
    """Put a shell script on the machine's PATH."""
    path = Path(machine.environment["PATH"]) / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def in_slurm(machine: Machine, settings: Mapping[str, str] | None = None, **variables: object) -> Machine:
    """The machine as a node of a SLURM job of two nodes, with an hour left."""
    shown = "\\n".join(f"{name} = {value}" for name, value in {**SETTINGS, **(settings or {})}.items())
    add_command(
        machine,
        "scontrol",
        f'case "$2" in hostnames) printf "node1\\nnode2\\n";; config) printf "{shown}\\n";; esac',
    )
    return with_environment(
        machine,
        **{
            "SLURM_JOB_ID": 17,
            "SLURM_JOB_NUM_NODES": 2,
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_END_TIME": 4102444800,
            **variables,
        },
    )


def with_experiment(machine: Machine, change: Callable[[dict[str, Any], Path], None] | None = None) -> Machine:
    """The machine with a small experiment: a checkpoint, a data file, and room for the results."""
    folder = machine.root.parent / "experiment"
    write_files(folder, {"model/config.json": "{}", "model/model.bin": "", "rows.jsonl": "{}\n"})
    experiment: dict[str, Any] = {
        "name": "checked",
        "models": {"base": {"path": "./model"}},
        "baseline": "base",
        "domains": {
            "parity": {
                "task": "decision",
                "data": {"source": "./rows.jsonl"},
                "columns": {"id": "id", "question": "question", "label": "label"},
                "choices": ["yes", "no"],
            }
        },
        "output": {"results_dir": str(folder / "results")},
    }
    if change is not None:
        change(experiment, folder)
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment), encoding="utf-8")
    return replace(machine, experiment=load_experiment(path))


def gpu(index: int = 0, *, used_bytes: int = 0, total_bytes: int = 80 * GIB) -> GpuReading:
    return GpuReading(
        index=index, uuid=f"GPU-{index}", name="GPU", total_bytes=total_bytes, used_bytes=used_bytes, energy_j=None
    )
