"""Checks of what is set up for Ray: its address, its token, its variables, and other clusters on this machine."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from moe_ray.clusters.doctor.checks import Fault, check
from moe_ray.clusters.doctor.machine import Machine
from moe_ray.errors import UserError, first_line
from moe_ray.execution.discovery import AUTO, wanted_address
from moe_ray.execution.ray_calls import knock
from moe_ray.files import read_bytes

# Variables that change what Ray does, which tests or another session may have left in the shell.
LEFT_BEHIND = {
    "RAY_API_SERVER_ADDRESS": "sends jobs of `ray job submit` to the cluster that it names, whatever --address says",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": "gives every run the settings of another Ray job",
    "RAY_OVERRIDE_RESOURCES": "replaces the resources of a node",
    "RAY_RUNTIME_ENV_HOOK": "runs code of its own in every job",
    "RAY_USE_MULTIPROCESSING_CPU_COUNT": "makes Ray ignore the limits of a container",
    "RAY_grpc_enable_http_proxy": "sends Ray's own connections through the HTTP proxy",
    "RAY_NAMESPACE": "moves actors to another namespace",
}
KNOCK_SHARE = 0.5
OTHERS = stat.S_IRWXG | stat.S_IRWXO


@check("ray-address", "failure")
def ray_address(machine: Machine) -> Iterator[Fault]:
    """The Ray cluster that runs would join does not answer.

    `runtime.address`, else RAY_ADDRESS, names the cluster. A variable that is left from an earlier session names one
    that has ended. Inside SLURM `auto` needs RAY_ADDRESS, because another job's cluster may be on the same machine.
    """
    address = machine.address
    if address is None:
        return
    where = "RAY_ADDRESS" if address == machine.variable("RAY_ADDRESS") else "runtime.address"
    remove = "unset RAY_ADDRESS" if where == "RAY_ADDRESS" else "moe-ray evaluate FILE --set runtime.address=null"
    if address == AUTO:
        try:
            address = wanted_address(AUTO, machine.environment) or ""
        except UserError as error:
            yield Fault(f"{where} is auto, which names no cluster here", error.what, "ray start --head")
            return
    try:
        knock(address, KNOCK_SHARE * machine.limit_s)
    except (OSError, ValueError) as error:
        yield Fault(f"no Ray cluster answers at {address}, which {where} names", first_line(error), remove)


@check("other-ray", "warning")
def other_ray(machine: Machine) -> Iterator[Fault]:
    """Another Ray runs on this machine.

    A run that names no cluster starts a Ray of its own beside it. Both count all CPUs and GPUs of the machine as
    theirs, and models of both meet on one GPU.
    """
    if machine.address is not None or machine.in_slurm_job:
        return
    found = sorted({str(cluster): cluster for cluster in machine.found_clusters()}.items())
    own = [cluster for _, cluster in found if cluster.is_own]
    if own:
        yield Fault(
            "a Ray cluster of yours runs on this machine, and a run would start another one beside it",
            ", ".join(str(cluster) for cluster in own),
            f"export RAY_ADDRESS={own[0].address}",
        )
    elif found and machine.gpus():
        yield Fault(
            "another user's Ray cluster uses this machine, and a run would share its GPUs",
            ", ".join(str(cluster) for _, cluster in found),
            "nvidia-smi",
        )


@check("ray-variables", "warning")
def ray_variables(machine: Machine) -> Iterator[Fault]:
    """A variable that changes how Ray works is left in the shell.

    Such variables are made for one job or for tests. A variable that is set in ~/.bashrc or left from another session
    changes every run.
    """
    for name, effect in LEFT_BEHIND.items():
        if name in machine.environment:
            yield Fault(f"{name} is set: it {effect}", f"{name} is in the environment", f"unset {name}")


@check("token-file", "failure")
def token_file(machine: Machine) -> Iterator[Fault]:
    """Ray's token file is missing, empty, or readable by others.

    Whoever reads the token can run programs on the cluster. The file belongs to you alone, with mode 0600. Ray itself
    writes ~/.ray/auth_token with the shell's umask.
    """
    configured = machine.variable("RAY_AUTH_TOKEN_PATH")
    path = Path(configured).expanduser() if configured else machine.home / ".ray/auth_token"
    needs_one = machine.variable("RAY_AUTH_MODE") == "token" and not machine.variable("RAY_AUTH_TOKEN")
    try:
        status = path.stat()
        empty = not read_bytes(path).strip()
    except OSError as error:
        if configured or needs_one:
            yield Fault(
                "the file with Ray's token cannot be read", f"{path}: {error.strerror}", "ray get-auth-token --generate"
            )
        return
    if empty and (configured or needs_one):
        yield Fault("the file with Ray's token is empty", str(path), "ray get-auth-token --generate")
    elif status.st_mode & OTHERS and _can_be_reached(path):
        yield Fault(
            "the file with Ray's token can be used by other users",
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}",
            f"chmod 600 {path}",
        )


@check("token-value", "warning")
def token_value(machine: Machine) -> Iterator[Fault]:
    """Ray's token itself is in the environment.

    SLURM stores the environment of a job that is submitted, and other programs log it. Name a file in its place.
    """
    if machine.variable("RAY_AUTH_TOKEN"):
        yield Fault(
            "RAY_AUTH_TOKEN holds the token itself, which SLURM and logs may keep",
            "RAY_AUTH_TOKEN is in the environment",
            "unset RAY_AUTH_TOKEN; export RAY_AUTH_TOKEN_PATH=~/.ray/auth_token",
        )


@check("token-mode", "warning")
def token_mode(machine: Machine) -> Iterator[Fault]:
    """A token exists, and clients are not told to send it.

    `ray start` uses ~/.ray/auth_token when it exists, but a client without RAY_AUTH_MODE=token does not send it: the
    cluster answers 401.
    """
    has_token = (machine.home / ".ray/auth_token").exists()
    if machine.address is not None and has_token and not machine.variable("RAY_AUTH_MODE"):
        yield Fault(
            "a Ray token exists, and RAY_AUTH_MODE does not say whether to send it",
            f"{machine.home / '.ray/auth_token'} exists; RAY_AUTH_MODE is not set",
            "export RAY_AUTH_MODE=token",
        )


def _can_be_reached(path: Path) -> bool:
    """Say whether other users may walk to `path`."""
    mode = stat.S_IXGRP | stat.S_IXOTH
    return all(parent.stat().st_mode & mode for parent in Path(os.path.realpath(path)).parents)
