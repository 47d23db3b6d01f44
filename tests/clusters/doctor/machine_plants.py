"""Faults of a machine: limits, folders, packages, Ray, network."""

import os
import resource
import socket
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from moe_ray.clusters.doctor.machine import Machine
from moe_ray.execution.discovery import FoundCluster
from tests.clusters.doctor.machines import (
    GIB,
    LIMITS,
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
    by_environment,
    by_experiment,
    by_file,
    model,
    plant,
)

# Limits.


@plant("open-files hard limit of 1024")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return replace(machine, limit_of={**LIMITS, resource.RLIMIT_NOFILE: (256, 1024)}.__getitem__)


@plant("processes limit of 100")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    return replace(machine, limit_of={**LIMITS, resource.RLIMIT_NPROC: (100, 100)}.__getitem__)


@plant("locked-memory of 8 MiB with an adapter of InfiniBand")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    (machine.root / "sys/class/infiniband/mlx5_0").mkdir(parents=True)
    return machine


@plant("shared-memory is missing")
def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
    (machine.root / "dev/shm").rmdir()
    return machine


by_file("processes in the control group", "sys/fs/cgroup/job/pids.max", "200\n")
by_file("overcommit refused", "proc/sys/vm/overcommit_memory", "2\n")
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
