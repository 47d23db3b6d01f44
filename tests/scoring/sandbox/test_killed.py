"""When the process that runs the sandbox is killed, nothing of it stays: no process, no folder."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from moe_ray.scoring.sandbox.program import BackendName
from tests.support.sandbox.suite import BACKENDS
from tests.support.sandbox.traces import heir

pytestmark = pytest.mark.slow

END_S = 10.0
RUNNING = '''
import sys
from moe_ray.config.schema import SandboxConfig
from moe_ray.errors import SandboxError
from moe_ray.scoring.sandbox import Program, Sandbox
try:
    sandbox = Sandbox.open(SandboxConfig(timeout_s=600, num_workers=2, allow_weak=True), backend=sys.argv[1])
except SandboxError as error:
    print("refused", error, flush=True)
    sys.exit()
print("opened", flush=True)
loop = """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
"""
sandbox.run_all([Program(code=loop, tests=("f()",))] * 2)
'''


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="moe-ray-killed-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def running(folder: Path, backend: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", RUNNING, backend]
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + END_S
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def below(known: set[int]) -> list[psutil.Process]:
    """Return the living processes below this one, orphans too (inside `heir()`), without those of `known`."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.pid not in known and is_alive(child)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the listing and the question
        return False


def bury(known: set[int]) -> None:
    for child in psutil.Process().children():
        if child.pid not in known:
            os.waitpid(child.pid, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_run_leaves_no_process_and_no_folder(folder: Path, backend: BackendName) -> None:
    with heir() as known, running(folder, backend) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        if said.startswith("refused"):
            pytest.skip(said)
        assert wait(lambda: len(below(known)) >= 1 + 2 * 3), "two wardens, players and judges"
        process.kill()
        process.wait()
        assert wait(lambda: below(known) == [])
        assert list(folder.iterdir()) == []
        bury(known)


def test_a_run_that_is_killed_while_it_tries_the_protections_leaves_no_folder(folder: Path) -> None:
    with heir() as known, running(folder, "limits") as process:
        assert wait(lambda: any(folder.iterdir()))
        assert wait(lambda: len(below(known)) > 2)
        process.kill()
        process.wait()
        assert wait(lambda: below(known) == [] and not any(folder.iterdir()))
        bury(known)
