"""pass@1 for lm_eval, which imports this file beside its task. Nothing of moe_ray is importable there.

lm_eval's own MBPP task hands the program and its tests to the `code_eval` metric, which is fetched from the hub. The
rule is the same here, without a network: the first fenced block if there is one, else the text; then its tests, run
with it in a fresh interpreter, all of which must hold within the time limit. It is no sandbox: the programs are those
of the micro-world's generalist.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

TIMEOUT_S = 10.0
FENCED = re.compile(r"```(?:\w+)?\n(.*?)\n?```", re.DOTALL)


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return 1.0 when the program in the only result passes all of `doc["tests"]`, else 0.0."""
    found = FENCED.search(results[0])
    program = found[1] if found else results[0]
    return {"pass_at_1": float(passes(program, doc["tests"]))}


def passes(program: str, tests: Sequence[str]) -> bool:
    """Say whether `program`, followed by `tests`, ends without an error in an interpreter of its own."""
    code = "\n".join([program, *tests, ""])
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0
