"""The other side of `benchmarks.sandbox_evalplus`: evalplus's own checker, in an interpreter that has evalplus.

Reads lines from stdin, each the literal of a list of solutions with their inputs and expected outputs; writes for each
line as JSON how long the checker took for all, and its verdicts. It checks as `evalplus.evaluate` does: a pool of
processes, each of which calls `untrusted_check`.
"""

import ast
import importlib
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def check(solution: dict[str, Any]) -> str:
    """Return evalplus's word for one solution."""
    verdict, _ = importlib.import_module("evalplus.eval").untrusted_check(
        dataset="mbpp",
        code=solution["code"],
        inputs=solution["inputs"],
        entry_point=solution["entry_point"],
        expected=solution["expected"],
        atol=0,
        ref_time=[0.0] * len(solution["inputs"]),
        fast_check=True,
        min_time_limit=solution["timeout_s"],
    )
    return str(verdict)


def main() -> None:
    """Answer until stdin ends; the answers go where stdout went, and what solutions print goes nowhere."""
    num_workers = int(sys.argv[1])
    importlib.import_module("evalplus.eval")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        solutions = ast.literal_eval(line)
        started = time.perf_counter()
        with ProcessPoolExecutor(max_workers=num_workers) as pool:
            verdicts = list(pool.map(check, solutions))
        answers.write(json.dumps({"wall_s": time.perf_counter() - started, "verdicts": verdicts}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
