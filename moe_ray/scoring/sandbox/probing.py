"""Finding out what a box protects, by trying to break out of it.

Each probe is a program whose `blocked()` says whether its attempt was refused; where the attempt would leave a
trace outside, the trace decides and not the program's word.
"""

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from moe_ray.scoring.sandbox.attempts import ENVIRONMENT, KERNEL, NETWORK, OUTPUT, PROCESSES, READS, TIME, WRITES
from moe_ray.scoring.sandbox.boxes import Box, package_paths
from moe_ray.scoring.sandbox.execution import BoxError, run_once
from moe_ray.scoring.sandbox.memory_probe import NUM_TRIES, PROBE_BYTES, memory_programs
from moe_ray.scoring.sandbox.program import Program, ProgramOutcome, ProgramVerdict, Protections

PROBE_TIMEOUT_S = 5.0
LOOP_TIMEOUT_S = 0.3
NUM_THREADS = 200
SECRET = "secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """An attempt: its program, the outcome that means blocked, and a look at the outside that must hold too."""

    code: str
    outcome: ProgramOutcome = "passed"
    timeout_s: float = PROBE_TIMEOUT_S
    outside: Callable[[], bool] = lambda: True

    def blocked(self, verdict: ProgramVerdict) -> bool:
        """Say whether the attempt was refused."""
        return verdict.outcome == self.outcome and self.outside()


def probe(box: Box, num_workers: int) -> Protections:
    """Return what `box` protects. Raises `BoxError` when it cannot run even a program that does nothing."""
    control = Program(code="def f(): return 1", tests=("assert f() == 1",))
    verdict = run_once(box, control, timeout_s=PROBE_TIMEOUT_S, worker=0)
    if not verdict.passed:
        raise BoxError(f"a program that only returns 1 ended with {verdict.outcome}: {verdict.detail}")
    with _targets() as probes, ThreadPoolExecutor(num_workers) as pool:
        runs = {name: pool.submit(_blocked, box, each, worker) for worker, (name, each) in enumerate(probes.items())}
        small = _with_limit(box, min(PROBE_BYTES, box.settings["memory_bytes"]))
        kinds = memory_programs(small.settings["memory_bytes"])
        held = {
            kind: pool.submit(_memory_held, small, code, len(probes) + number)
            for number, (kind, code) in enumerate(kinds.items())
        }
        gaps = tuple(kind for kind, run in held.items() if not run.result())
        found = {name: run.result() for name, run in runs.items()}
        return Protections(backend=box.backend, memory=not gaps, memory_gaps=gaps, **found)


def _blocked(box: Box, probe: Probe, worker: int) -> bool:
    program = Program(code=probe.code, tests=("assert blocked() is True",))
    try:
        return probe.blocked(run_once(box, program, timeout_s=probe.timeout_s, worker=worker))
    except BoxError:
        return False


def _with_limit(box: Box, memory_bytes: int) -> Box:
    return replace(box, settings={**box.settings, "memory_bytes": memory_bytes})


def _memory_held(box: Box, code: str, worker: int) -> bool:
    """Say whether a program that tries to hold too much memory was refused it, or was killed."""
    program = Program(code=code, tests=("assert blocked() is True",))
    for _ in range(NUM_TRIES):
        try:
            verdict = run_once(box, program, timeout_s=PROBE_TIMEOUT_S, worker=worker)
        except BoxError:
            continue
        if verdict.outcome in ("passed", "memory"):
            return True
    return False


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a temporary folder that goes even when this process is killed: a shell waits for its end."""
    with tempfile.TemporaryDirectory(prefix="moe-ray-probe-") as name:
        command = ["/bin/sh", "-c", 'read -r _; rm -rf -- "$1"', "sh", name]
        guard = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            yield Path(name)
        finally:
            guard.communicate()


@contextmanager
def _targets() -> Iterator[Mapping[str, Probe]]:
    """Yield the probes, with real targets outside: files that all may read and write, two servers."""
    with _folder() as folder, socket.socket() as server:
        folder.chmod(0o755)
        for part in ("readable", "writable"):
            (folder / part).mkdir()
            (folder / part).chmod(0o777)
            (folder / part / SECRET).write_text(SECRET)
            (folder / part / SECRET).chmod(0o666)
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.socket(socket.AF_UNIX) as local:
            abstract = f"\0moe-ray-probe-{os.getpid()}-{folder.name}"
            local.bind(abstract)
            local.listen()
            yield _probes(folder, server.getsockname()[1], abstract)


def _probes(folder: Path, port: int, abstract: str) -> dict[str, Probe]:
    readable, writable = folder / "readable" / SECRET, folder / "writable" / SECRET

    def untouched() -> bool:
        return [*writable.parent.iterdir()] == [writable] and writable.read_text() == SECRET

    pid = os.getpid()
    return {
        "network": Probe(code=NETWORK.format(port=port, abstract=abstract)),
        "filesystem_writes": Probe(
            code=WRITES.format(folder=str(writable.parent), secret=str(writable)), outside=untouched
        ),
        "filesystem_reads": Probe(code=READS.format(paths=[str(readable), *_installed_files()])),
        "processes": Probe(code=PROCESSES.format(pid=pid, num_threads=NUM_THREADS, kernel=KERNEL.format())),
        "time": Probe(code=TIME, outcome="timeout", timeout_s=LOOP_TIMEOUT_S),
        "output": Probe(code=OUTPUT, outcome="output_limit"),
        "environment": Probe(code=ENVIRONMENT.format(pid=pid)),
    }


def _installed_files() -> list[str]:
    """Return a file of each folder of installed packages: a program is to see the standard library only."""
    files = (next(Path(folder).rglob("*.py"), None) for folder in package_paths())
    return [str(file) for file in files if file is not None]
