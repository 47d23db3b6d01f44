"""One node's Ray: started with private ports and folders, ended by process id. `ray stop` would end every Ray there."""

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from moe_ray.clusters.slurm.life import NodeFailedError
from moe_ray.clusters.slurm.limits import NodeLimits
from moe_ray.clusters.slurm.network import PortClaim, RayPorts
from moe_ray.clusters.slurm.processes import LIBC, PreparedProgram, start_child

RAY = "ray.scripts.scripts"
STARTED = "Ray runtime started."
# What `ray start` says when its own limit of 30 s is over, as on a busy machine.
SLOW = "timed out during startup"
LOG_LINES = 12
TERM_TIMEOUT_S = 3.0
_PR_SET_CHILD_SUBREAPER = 36
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TELLING = re.compile(r"^\[[^]]* [EFC] \d+ \d+\]|Check failed|Error|error:|Exception|refused|denied")
_STACK_FRAME = re.compile(r"^/\S+\(|^\s*File \"")
# The head gives a silent node up after about 10 s; Ray's own 30 s and more would leave its work waiting.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
}
# A node whose head is gone ends by itself after this time.
ORPHAN_TIMEOUT_S = 20


def job_environment(environment: Mapping[str, str], *, token: Path, temp_dir: Path, is_head: bool) -> dict[str, str]:
    """Return the environment of this job's Ray and of its command.

    Variables of Ray that the user's shell had are left out: they name other clusters, tokens and folders.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    orphan = {} if is_head else {"RAY_gcs_rpc_server_reconnect_timeout_s": str(ORPHAN_TIMEOUT_S)}
    return {
        **kept,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(temp_dir),
        "TMPDIR": str(temp_dir),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONUNBUFFERED": "1",
        **HEALTH,
        **orphan,
    }


def start_options(host: str, ports: RayPorts, limits: NodeLimits, temp_dir: Path, head: str | None) -> list[str]:
    """Return the options of `ray start`. `head` is the address of the cluster to join, None on the head itself."""
    place = (
        ["--head", f"--port={ports.gcs}", "--include-dashboard=false", f"--dashboard-port={ports.dashboard}",
         "--disable-usage-stats", "--no-monitor"]
        if head is None
        else [f"--address={head}"]
    )  # fmt: skip
    return [
        *place,
        "--block",
        "--include-log-monitor=false",
        f"--node-ip-address={host}",
        f"--node-manager-port={ports.node_manager}",
        f"--object-manager-port={ports.object_manager}",
        f"--ray-client-server-port={ports.client_server}",
        f"--dashboard-agent-listen-port={ports.dashboard_agent}",
        f"--dashboard-agent-grpc-port={ports.dashboard_agent_grpc}",
        f"--runtime-env-agent-port={ports.runtime_env_agent}",
        f"--metrics-export-port={ports.metrics}",
        f"--min-worker-port={ports.first_worker}",
        f"--max-worker-port={ports.last_worker}",
        f"--num-cpus={limits.num_cpus}",
        f"--num-gpus={limits.num_gpus}",
        f"--memory={limits.memory_bytes}",
        f"--object-store-memory={limits.object_store_bytes}",
        f"--temp-dir={temp_dir}",
    ]


def make_temp_dir(parent: Path, name: str) -> Path:
    """Create this job's private folder on the node's own disk. Raises `NodeFailedError` where that is impossible.

    The folder is new: a job of another cluster on this machine may have the same id.
    """
    try:
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    except OSError as error:
        raise NodeFailedError(
            f"cannot create a folder in {parent}: {error.strerror}\n  remedy: set temp_dir in the site file to a "
            "folder on the node's own disk that you may write to"
        ) from error
    return path


class RayNode:
    """The Ray processes of this job on this node.

    Ray chmods its folder to 0777, so it lies inside `folder`, which only the user may enter.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self._program: PreparedProgram | None = None

    @property
    def ray_dir(self) -> Path:
        """Ray's own folder."""
        return self._folder / "r"

    @property
    def _output(self) -> Path:
        return self._folder / "ray-start.log"

    def prepare(self) -> None:
        """Have `ray start` import its packages, while the nodes meet."""
        with self._output.open("wb") as output:
            self._program = PreparedProgram([RAY], self._environment, stdout=output, stderr=subprocess.STDOUT)

    def start(self, host: str, claim: PortClaim, limits: NodeLimits, head: str | None = None) -> None:
        """Begin to start Ray; `has_started` says when it runs."""
        options = start_options(host, claim.ports, limits, self.ray_dir, head)
        self._command = [sys.executable, "-m", RAY, "start", *options]
        self._process = self._program.run(["ray", "start", *options]) if self._program is not None else None
        if self._process is None:
            self._start()

    def _start(self) -> None:
        with self._output.open("wb") as output:
            self._process = start_child(self._command, self._environment, stdout=output, stderr=subprocess.STDOUT)

    def has_started(self) -> bool:
        """True once Ray runs on this node; a start that was only slow is repeated.

        Raises `NodeFailedError` when Ray ended for another reason.
        """
        said = self._output.read_text(encoding="utf-8", errors="replace")
        if self.is_running():
            return STARTED in said
        if SLOW not in said:
            raise NodeFailedError("`ray start` ended before Ray was up")
        end_descendants()
        shutil.rmtree(self.ray_dir, ignore_errors=True)
        self._start()
        return False

    def is_running(self) -> bool:
        """True while the process that holds this node's Ray lives."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> list[str]:
        """Return the telling lines at the end of what `ray start` and Ray's own processes wrote."""
        logs = self.ray_dir / "session_latest" / "logs"
        lines = _telling(self._output)
        for name in ("gcs_server.err", "raylet.err"):
            lines += [f"{name}: {line}" for line in _telling(logs / name)]
        return lines

    def stop(self) -> None:
        """End all processes of this job on this node, and remove its folder."""
        end_descendants()
        shutil.rmtree(self._folder, ignore_errors=True)


def adopt_orphans() -> None:
    """Make this process the parent of every orphan among its descendants, so that none of them can get lost.

    Ray's processes start sessions of their own, and rename themselves, which overwrites their environment.
    """
    LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """End every process that this one started, directly or not: gently first, and new ones as well."""
    for process in _descendants():
        with contextlib.suppress(psutil.Error):
            process.terminate()
    deadline = time.monotonic() + TERM_TIMEOUT_S
    while time.monotonic() < deadline and _descendants():
        time.sleep(0.1)
    while left := _descendants():
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.1)


def _descendants() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _telling(path: Path) -> list[str]:
    """The last lines of a log that say what went wrong; its last lines where none does."""
    try:
        text = path.read_bytes()[-100_000:].decode("utf-8", "replace")
    except OSError:
        return []
    lines = [_COLOURS.sub("", line).rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _STACK_FRAME.search(line)]
    return ([line for line in lines if _TELLING.search(line)] or lines)[-LOG_LINES:]
