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
from dataclasses import dataclass
from pathlib import Path

from moe_ray.scoring.sandbox.boxes import Box
from moe_ray.scoring.sandbox.execution import BoxError, run_once
from moe_ray.scoring.sandbox.program import Outcome, Program, Protections, Verdict

PROBE_TIMEOUT_S = 5.0
LOOP_TIMEOUT_S = 0.3
NUM_THREADS = 200
SECRET = "secret"

NETWORK = """
import socket
def reached(family, address):
    try:
        with socket.socket(family) as s:
            s.settimeout(1)
            s.connect(address)
            return True
    except OSError:
        return False
def blocked():
    return not any([reached(socket.AF_INET, ("127.0.0.1", {port})), reached(socket.AF_UNIX, {abstract!r})])
"""
WRITES = """
import os
def refused(attempt):
    try:
        attempt()
    except OSError:
        return True
    return False
def blocked():
    return all([
        refused(lambda: open({folder!r} + "/new", "w").close()),
        refused(lambda: os.mkdir({folder!r} + "/folder")),
        refused(lambda: os.truncate({secret!r}, 0)),
        refused(lambda: os.chmod({secret!r}, 0o600)),
        refused(lambda: os.utime({secret!r}, (1, 1))),
        refused(lambda: os.unlink({secret!r})),
    ])
"""
READS = """
def blocked():
    try:
        open({secret!r}).read()
    except OSError:
        return True
    return False
"""
PROCESSES = """
import os, threading
def blocked():
    try:
        if os.fork() == 0:
            os._exit(0)
        return False
    except OSError:
        pass
    for target in ({pid}, os.getppid()):
        try:
            os.kill(target, 0)
            return False
        except OSError:
            pass
    stop, threads = threading.Event(), []
    try:
        for _ in range({num_threads}):
            thread = threading.Thread(target=stop.wait, daemon=True)
            thread.start()
            threads.append(thread)
        return False
    except (RuntimeError, MemoryError):
        return True
    finally:
        stop.set()
"""
TIME = """
import signal
for number in (signal.SIGTERM, signal.SIGXCPU, signal.SIGALRM):
    signal.signal(number, signal.SIG_IGN)
def blocked():
    while True:
        pass
"""
MEMORY = """
def blocked():
    return len(bytearray({too_many_bytes})) < 0
"""
OUTPUT = """
def blocked():
    while True:
        print("x" * 10000)
"""
ENVIRONMENT = """
import os
def blocked():
    if set(os.environ) - {{"LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "PWD"}}:
        return False
    try:
        open("/proc/{pid}/environ").read()
    except OSError:
        return True
    return False
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """An attempt: its program, the outcome that means blocked, and a look at the outside that must hold too."""

    code: str
    outcome: Outcome = "passed"
    timeout_s: float = PROBE_TIMEOUT_S
    outside: Callable[[], bool] = lambda: True

    def blocked(self, verdict: Verdict) -> bool:
        """Say whether the attempt was refused."""
        return verdict.outcome == self.outcome and self.outside()


def probe(box: Box, num_workers: int) -> Protections:
    """Return what `box` protects. Raises `BoxError` when it cannot run even a program that does nothing."""
    control = Program(code="def f(): return 1", tests=("assert f() == 1",))
    verdict = run_once(box, control, timeout_s=PROBE_TIMEOUT_S, worker=0)
    if not verdict.passed:
        raise BoxError(f"a program that only returns 1 ended with {verdict.outcome}: {verdict.detail}")
    with _targets(box.settings["memory_bytes"]) as probes, ThreadPoolExecutor(num_workers) as pool:
        runs = {name: pool.submit(_blocked, box, each, worker) for worker, (name, each) in enumerate(probes.items())}
        return Protections(backend=box.backend, **{name: run.result() for name, run in runs.items()})


def _blocked(box: Box, probe: Probe, worker: int) -> bool:
    program = Program(code=probe.code, tests=("assert blocked() is True",))
    try:
        return probe.blocked(run_once(box, program, timeout_s=probe.timeout_s, worker=worker))
    except BoxError:
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
def _targets(memory_bytes: int) -> Iterator[Mapping[str, Probe]]:
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
            yield _probes(folder, server.getsockname()[1], abstract, memory_bytes)


def _probes(folder: Path, port: int, abstract: str, memory_bytes: int) -> dict[str, Probe]:
    readable, writable = folder / "readable" / SECRET, folder / "writable" / SECRET

    def untouched() -> bool:
        return [*writable.parent.iterdir()] == [writable] and writable.read_text() == SECRET

    pid = os.getpid()
    return {
        "network": Probe(code=NETWORK.format(port=port, abstract=abstract)),
        "filesystem_writes": Probe(
            code=WRITES.format(folder=str(writable.parent), secret=str(writable)), outside=untouched
        ),
        "filesystem_reads": Probe(code=READS.format(secret=str(readable))),
        "processes": Probe(code=PROCESSES.format(pid=pid, num_threads=NUM_THREADS)),
        "time": Probe(code=TIME, outcome="timeout", timeout_s=LOOP_TIMEOUT_S),
        "memory": Probe(code=MEMORY.format(too_many_bytes=memory_bytes + (64 << 20)), outcome="memory"),
        "output": Probe(code=OUTPUT, outcome="output_limit"),
        "environment": Probe(code=ENVIRONMENT.format(pid=pid)),
    }
