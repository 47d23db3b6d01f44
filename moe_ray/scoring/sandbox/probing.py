"""Finding out what a box protects, by trying to break out of it.

Each probe is a program whose `blocked()` says whether every attempt was refused; where the attempt would leave a trace
outside, the trace decides and not the program's word. The programs' texts are formatted with their targets.
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

from moe_ray.scoring.sandbox.boxes import Box, package_paths
from moe_ray.scoring.sandbox.execution import BoxError, run_once
from moe_ray.scoring.sandbox.memory_probe import NUM_TRIES, PROBE_BYTES, memory_programs
from moe_ray.scoring.sandbox.program import Program, ProgramOutcome, ProgramVerdict, Protections

KERNEL = """
import ctypes, fcntl, resource
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {{
    "x86_64": (206, 306, 248, 298, 321, 323, 425, 434, 324),
    "aarch64": (0, 267, 217, 241, 280, 282, 425, 434, 283),
}}
def command(fd, *arguments):
    try:
        fcntl.fcntl(fd, *arguments)
        return True
    except OSError as error:
        return error.errno not in (1, 13, 22, 38)
def locked(first, second):
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
def reached_kernel():
    context, timer = ctypes.c_ulong(), ctypes.c_int()
    numbers = NUMBERS.get(os.uname().machine)
    if numbers is None:
        return True
    io_setup, syncfs, add_key, perf, bpf, userfaultfd, ring, pidfd, membarrier = map(ctypes.c_long, numbers)
    library, again = (os.open(os.__file__, os.O_RDONLY) for _ in range(2))
    folder = os.open(os.path.dirname(os.__file__), os.O_RDONLY)
    call, buffer = libc.syscall, ctypes.create_string_buffer(128)
    return any([
        call(io_setup, 1, ctypes.byref(context)) >= 0,
        libc.timer_create(1, None, ctypes.byref(timer)) == 0,
        call(syncfs, library) >= 0,
        call(add_key, b"user", b"moe-ray-probe", b"1", ctypes.c_size_t(1), -2) >= 0,
        call(perf, buffer, 0, -1, -1, 0) >= 0 or ctypes.get_errno() not in (1, 13, 38),
        call(bpf, 0, buffer, 72) >= 0,
        call(userfaultfd, 1) >= 0,
        call(ring, 1, buffer) >= 0,
        call(pidfd, os.getppid(), 0) >= 0,
        call(membarrier, 1, 0) >= 0,
        libc.personality(0xFFFFFFFF) != -1,
        libc.mlock(buffer, ctypes.c_size_t(1)) == 0,
        locked(library, again),
        command(library, fcntl.F_SETLEASE, fcntl.F_RDLCK),
        command(folder, fcntl.F_NOTIFY, fcntl.DN_ACCESS),
        command(library, 1036, buffer.raw[:8]),
    ])
"""
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
import fcntl, os
def refused(attempt):
    try:
        attempt()
    except OSError:
        return True
    return False
def set_flags():
    flags = fcntl.ioctl(os.open({secret!r}, os.O_RDONLY), 0x80086601, bytes(8))
    fcntl.ioctl(os.open({secret!r}, os.O_RDONLY), 0x40086602, flags)
def blocked():
    return all([
        refused(lambda: open({folder!r} + "/new", "w").close()),
        refused(lambda: os.mkdir({folder!r} + "/folder")),
        refused(lambda: os.truncate({secret!r}, 0)),
        refused(lambda: os.chmod({secret!r}, 0o600)),
        refused(lambda: os.utime({secret!r}, (1, 1))),
        refused(lambda: os.setxattr({secret!r}, "user.moe-ray", b"1")),
        refused(set_flags),
        refused(lambda: os.unlink({secret!r})),
    ])
"""
READS = """
def refused(path):
    try:
        open(path).read(1)
    except OSError:
        return True
    return False
def blocked():
    return all([refused(path) for path in {paths!r}])
"""
PROCESSES = """
import os, threading
{kernel}
def blocked():
    if reached_kernel():
        return False
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
