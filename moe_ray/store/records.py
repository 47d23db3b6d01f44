"""Records of a run beside its answers: the manifest, and the telemetry of each replica."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from moe_ray.files import StoredRecord


class ProbeTiming(StoredRecord):
    """One example of the batch-size-1 latency probe."""

    example_id: str
    num_prompt_tokens: int
    num_completion_tokens: int
    time_to_first_token_s: float | None
    total_s: float


class ReplicaTelemetry(StoredRecord):
    """What one replica (an actor that held one model) cost, from its start to the end of its process.

    Memory and energy figures that the device cannot give are None, never 0. `busy_s` is the time inside the
    engine; `gpu_energy_j` is the whole GPU's while this replica held it. `model` is the name that the model had then;
    `identity` is the model under any name (`ModelIdentity.key`), None in telemetry of earlier versions.
    """

    replica: str
    model: str
    identity: str | None = None
    session: str
    node: str
    pid: int
    device: str
    batching: str | None = None
    gpu_ids: list[str] = Field(default_factory=list)
    gpu_uuids: list[str] = Field(default_factory=list)
    cuda_visible_devices: str | None = None
    started_at: float
    load_s: float | None = None
    unload_s: float | None = None
    busy_s: float = 0.0
    num_answers: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    weights_bytes: int | None = None
    peak_resident_bytes: int | None = None
    peak_torch_bytes: int | None = None
    peak_gpu_process_bytes: int | None = None
    peak_gpu_device_bytes: int | None = None
    gpu_bytes_before_load: int | None = None
    gpu_bytes_after_unload: int | None = None
    gpu_energy_j: float | None = None
    probe: list[ProbeTiming] = Field(default_factory=list)
    end: Literal["running", "finished", "lost", "failed_to_start"] = "running"
    reason: str | None = None


class SessionRecord(StoredRecord):
    """One command that worked on this run: the first, or a later one that resumed it."""

    session: str
    command: list[str]
    started_at: float
    ended_at: float | None = None
    status: Literal["running", "complete", "incomplete", "interrupted", "failed"] = "running"
    wall_s: float | None = None
    cells_done_before: int = 0
    cells_done_after: int | None = None
    hardware: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    git: dict[str, Any] = Field(default_factory=dict)


class GivenUp(StoredRecord):
    """A model whose work was abandoned, or a shard that was lost too often, with the reason."""

    model: str
    shard: str | None = None
    num_cells: int
    reason: str


class Manifest(StoredRecord):
    """What this run is. `identity` decides whether a resume continues the same run.

    `changes` says how the data changed between sessions; the sentences are in `notes` too.
    """

    format: Literal[1] = 1
    name: str
    description: str = ""
    moe_ray_version: str
    created_at: float
    identity: dict[str, Any]
    models: dict[str, dict[str, Any]]
    domains: dict[str, dict[str, Any]]
    prompts: dict[str, dict[str, Any]]
    baseline: str | None
    experts: dict[str, str]
    notes: list[str] = Field(default_factory=list)
    changes: list[str] = Field(default_factory=list)
    sandbox: dict[str, Any] | None = None
    router: dict[str, Any] | None = None
    sessions: list[SessionRecord] = Field(default_factory=list)
    given_up: list[GivenUp] = Field(default_factory=list)


PACKAGES = ("moe_ray", "torch", "transformers", "ray", "datasets", "evaluate", "rouge-score", "bitsandbytes", "pyarrow")
GIT_TIMEOUT_S = 10


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a figure; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, Any]:
    """The commit of the checkout around `folder`, and whether it has changes; empty outside a checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
