"""MBPP's published programs pass their own tests; each with its return values broken fails. A sample; all of them are
run by benchmarks/sandbox_references.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.schema import SandboxConfig
from moe_ray.scoring.sandbox import Sandbox
from tests.support.reference_programs import KNOWN_SLOW, program

TASKS = Path(__file__).parents[3] / ".." / "shared" / "data" / "code" / "mbpp_train_prompt474.jsonl"
ONE_IN = 24
ALWAYS = (533, 912, 927)
"""A type as an argument, a call around the call, a tree built by the setup."""


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox.open(SandboxConfig(allow_weak=True, timeout_s=10))


@pytest.fixture(scope="module")
def tasks() -> list[dict[str, Any]]:
    if not TASKS.exists():
        pytest.skip("the MBPP records are not here")
    records = [json.loads(line) for line in TASKS.read_text().splitlines()]
    return [task for i, task in enumerate(records) if i % ONE_IN == 0 or task["task_id"] in ALWAYS]


def test_the_published_programs_pass_their_own_tests(sandbox: Sandbox, tasks: list[dict[str, Any]]) -> None:
    verdicts = sandbox.run_all([program(task) for task in tasks])
    failed = {task["task_id"] for task, verdict in zip(tasks, verdicts, strict=True) if not verdict.passed}
    assert failed <= KNOWN_SLOW


def test_a_published_program_with_broken_returns_fails(sandbox: Sandbox, tasks: list[dict[str, Any]]) -> None:
    verdicts = sandbox.run_all([program(task, break_it=True) for task in tasks])
    assert {verdict.outcome for verdict in verdicts} <= {"failed", "error"}
