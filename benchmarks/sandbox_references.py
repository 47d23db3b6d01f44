"""MBPP's reference programs through the sandbox: each must pass its own tests, and fail them once it is broken.

    python -m benchmarks.sandbox_references MBPP.jsonl

Breaking a program: whatever any of its functions returns is wrapped, so that it is wrong and still of plain data.
Known exceptions are named in KNOWN_SLOW and UNBREAKABLE. Exits with 1 when anything else is out of order.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from moe_ray.config.schema import SandboxConfig
from moe_ray.scoring.sandbox import ProgramVerdict, Sandbox
from tests.support.reference_programs import KNOWN_SLOW, program

"""Amicable numbers by trial division: about as long as the time limit."""


def run(sandbox: Sandbox, tasks: list[dict[str, Any]], *, break_them: bool) -> tuple[list[ProgramVerdict], float]:
    """Return the verdicts, and the wall seconds of all."""
    programs = [program(task, break_it=break_them) for task in tasks]
    started = time.perf_counter()
    return sandbox.run_all(programs), time.perf_counter() - started


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--backend", choices=("bubblewrap", "namespaces", "filters", "limits"))
    arguments = parser.parse_args()
    tasks = [json.loads(line) for line in arguments.tasks.read_text().splitlines() if line]
    surprises = 0
    sandbox = Sandbox.open(SandboxConfig(allow_weak=arguments.backend is not None), backend=arguments.backend)
    print(f"{len(tasks)} tasks; {sandbox.describe()}")
    for break_them in (False, True):
        verdicts, wall_s = run(sandbox, tasks, break_them=break_them)
        counts = Counter(verdict.outcome for verdict in verdicts)
        title = "broken" if break_them else "as published"
        outcomes = ", ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items()))
        print(f"{title:13} {wall_s:6.1f} s {len(tasks) / wall_s:6.1f} programs/s   {outcomes}")
        for task, verdict in zip(tasks, verdicts, strict=True):
            if verdict.passed == break_them and task["task_id"] not in KNOWN_SLOW:
                surprises += 1
                print(f"  task {task['task_id']}: {verdict.outcome} {verdict.detail}")
            elif verdict.outcome == "sandbox_failed" or task["task_id"] in KNOWN_SLOW:
                print(f"  task {task['task_id']} (known): {verdict.outcome} {verdict.wall_s:.1f} s")
    print(f"{surprises} surprises")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
