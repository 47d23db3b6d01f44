"""The peer's own virtual environment: lm-evaluation-harness with the versions of `constraints.txt`."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from benchmarks.virtual_environment import installed_versions, make_python

LM_EVAL_VERSION = "0.4.13"
NAMED_PACKAGES = ("torch", "transformers")
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What both sides run in: results below `folder`, lm_eval's interpreter, Ray's temporary folder, equal threads."""

    folder: Path
    python: Path
    environment: Mapping[str, str]
    temp_dir: Path
    num_threads: int
    max_examples: int | None


def peer_python(folder: Path) -> Path:
    """Return the interpreter of the environment at `folder`, which is made now if it is not there.

    Raises `SystemExit` when another version of lm_eval is installed there.
    """
    return make_python(folder, "lm_eval", LM_EVAL_VERSION, extra="[hf]")


def peer_versions(python: Path) -> dict[str, str | None]:
    """Return the versions of lm_eval and what decides its numbers; None for what is not installed."""
    return installed_versions(python, "lm_eval", *NAMED_PACKAGES)


def describe_machine(python: Path) -> str:
    """Return the lines that say what the figures were measured on, and with which versions on either side."""
    ours = {name: metadata.version(name) for name in (*NAMED_PACKAGES, "ray")}
    cores, memory_gib = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / GIB
    return (
        f"machine  {platform.machine()}, {cores} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}\n"
        f"moe_ray  {_listed(ours)}\nlm_eval  {_listed(peer_versions(python))}"
    )


def _listed(versions: dict[str, str] | dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def both_sides(environment: dict[str, str], num_threads: int) -> dict[str, str]:
    """Return `environment` with the hub out of reach and so many threads for lm_eval; a replica sets its own."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return {**environment, **offline, "OMP_NUM_THREADS": str(num_threads)}
