"""What is run: mergekit-moe, moe-ray without and with its tests, and a plain copy; each a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from moe_ray.execution.gpus import peak_resident_bytes

POLL_S = 0.02
NUM_EXPERTS, TOP_K = 4, 2
MERGEKIT, OURS, OURS_TESTED, COPY = "mergekit-moe", "moe-ray --no-check", "moe-ray", "cp of mergekit-moe's"
TAIL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What a command took: seconds, and the resident memory of its processes at their peaks, added up."""

    wall_s: float
    peak_memory_bytes: int


def mergekit_config(dense: Path, family: str) -> dict[str, Any]:
    """The configuration of four copies behind random gates.

    Its Qwen MoE wants exactly one shared expert; a residual scale of 0 makes that one add nothing.
    """
    config: dict[str, Any] = {
        "base_model": str(dense),
        "gate_mode": "random",
        "dtype": "bfloat16",
        "experts_per_token": TOP_K,
        "experts": [{"source_model": str(dense), "positive_prompts": [f"expert {e}"]} for e in range(NUM_EXPERTS)],
    }
    if family == "qwen2":
        shared = {"source_model": str(dense), "positive_prompts": ["shared"], "residual_scale": 0.0}
        config |= {"architecture": "qwen", "shared_experts": [shared]}
    return config


def command_of(side: str, python: Path, dense: Path, family: str, out: Path) -> list[str]:
    """The command that makes `out` of `dense`; `python` is the interpreter beside which mergekit's commands lie."""
    if side == MERGEKIT:
        file = out.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(mergekit_config(dense, family)), encoding="utf-8")
        anyway = "--i-understand-this-is-not-useful-without-training"
        return [str(python.with_name("mergekit-moe")), str(file), str(out), anyway, "--quiet"]
    if side == COPY:
        return ["cp", "-r", str(out.with_name(MERGEKIT)), str(out)]
    sizes = ["--num-experts", str(NUM_EXPERTS), "--top-k", str(TOP_K)]
    no_tests = ["--no-check"] if side == OURS else []
    return [sys.executable, "-m", "moe_ray", "moe", "upcycle", str(dense), "--out", str(out), *sizes, *no_tests]


def measure(command: Sequence[str], log: Path) -> Used:
    """Run a command with the hub out of reach. Raises `SystemExit` with the end of what it said when it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    peaks: dict[int, int] = {}
    with log.open("wb") as file:
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment) as process:
            while process.poll() is None:
                for pid in _tree(process.pid):
                    peaks[pid] = max(peaks.get(pid, 0), peak_resident_bytes(pid))
                time.sleep(POLL_S)
        wall_s = time.perf_counter() - started
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARACTERS:]
        raise SystemExit(f"{' '.join(command)}\nended with {process.returncode}:\n{said}")
    return Used(wall_s=wall_s, peak_memory_bytes=sum(peaks.values()))


def _tree(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What plain transformers makes of a mixture. `error` says why it does not load, and nothing else counts then.

    `num_unmatched` tensors are in one of checkpoint and class alone. `max_difference` is that of a logit from the dense
    model's in float32, `largest_logit` the dense model's largest.
    """

    error: str | None = None
    num_unmatched: int = 0
    max_difference: float = 0.0
    largest_logit: float = 0.0

    @property
    def relative_difference(self) -> float:
        return self.max_difference / max(1.0, self.largest_logit)


def load_with_transformers(dense: Path, mixture: Path) -> Loaded:
    """Load both in a process that imports torch and transformers alone, and compare their logits."""
    command = [sys.executable, "-m", "benchmarks.moe_mergekit.loading", str(dense), str(mixture)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Loaded(**json.loads(done.stdout.splitlines()[-1]))
