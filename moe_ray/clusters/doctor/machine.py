"""What the checks look at: one machine, as facts that a test can replace."""

import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import UserError
from moe_ray.execution.discovery import AUTO, FoundCluster, found_clusters
from moe_ray.execution.gpus import GpuReading, read_gpus
from moe_ray.mounts import Mount, mount_of

DEFAULT_LIMIT_S = 5.0
# A command is ended before its check counts as hung, so that the check can name it.
COMMAND_SHARE = 0.9
MAX_FACT_BYTES = 1 << 20


class CommandOutput(NamedTuple):
    """How a command ended: its exit code, None when it was ended at its time limit, and all that it printed."""

    code: int | None
    text: str


class DiskUsage(NamedTuple):
    """Sizes of a file system, in bytes and in files."""

    total_bytes: int
    free_bytes: int
    total_files: int
    free_files: int
    is_noexec: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine with its environment. `root` is the folder below which /proc, /sys, /dev and /tmp are.

    `meeting` is a folder that the asking machine made for all nodes, `cluster` the head's address of the Ray cluster
    that this machine is in. `wrong_experiment` is why the experiment's file cannot be used.
    """

    environment: Mapping[str, str]
    host: str
    user_id: int
    prefix: Path
    import_path: tuple[str, ...]
    experiment: LoadedExperiment | None = None
    wrong_experiment: UserError | None = None
    meeting: Path | None = None
    cluster: str | None = None
    root: Path = Path("/")
    limit_s: float = DEFAULT_LIMIT_S
    limit_of: Callable[[int], tuple[int, int]] = resource.getrlimit
    addresses_of: Callable[[str], Sequence[str]] = field(default=lambda name: _addresses(name))
    read_gpus: Callable[[], Sequence[GpuReading]] = read_gpus
    found_clusters: Callable[[], Sequence[FoundCluster]] = field(default=lambda: tuple(found_clusters()))
    _outputs: "dict[tuple[str, ...], _Once]" = field(default_factory=dict, init=False, compare=False)
    _gpus: "list[_Fact]" = field(default_factory=list, init=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, compare=False)

    @classmethod
    def here(
        cls,
        experiment: LoadedExperiment | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        wrong_experiment: UserError | None = None,
        meeting: Path | None = None,
        cluster: str | None = None,
        limit_s: float = DEFAULT_LIMIT_S,
    ) -> "Machine":
        """Return the machine that this process runs on, with this process's environment unless one is given."""
        environment = dict(os.environ) if environment is None else environment
        return cls(
            environment=environment,
            host=environment.get("SLURMD_NODENAME") or socket.gethostname(),
            user_id=os.geteuid(),
            prefix=Path(sys.prefix),
            import_path=tuple(sys.path),
            experiment=experiment,
            wrong_experiment=wrong_experiment,
            meeting=meeting,
            cluster=cluster,
            limit_s=limit_s,
        )

    def variable(self, name: str) -> str:
        """Return an environment variable, empty where it is not set."""
        return self.environment.get(name, "").strip()

    @property
    def home(self) -> Path:
        return Path(self.variable("HOME") or "/")

    @property
    def in_slurm_job(self) -> bool:
        return bool(self.variable("SLURM_JOB_ID"))

    @property
    def num_slurm_nodes(self) -> int:
        """Nodes of the SLURM job that this is in; 0 outside of one."""
        number = self.variable("SLURM_JOB_NUM_NODES")
        return int(number) if self.in_slurm_job and number.isdecimal() else 0

    @property
    def address(self) -> str | None:
        """The Ray cluster that a run would join, as it is written: host:port, auto; None where it starts its own."""
        configured = self.experiment.config.runtime.address if self.experiment is not None else None
        address = self.cluster or configured or self.variable("RAY_ADDRESS") or None
        if address == AUTO and self.variable("RAY_ADDRESS") not in ("", AUTO, "local"):
            address = self.variable("RAY_ADDRESS")
        return None if address == "local" else address

    @property
    def temp_dir(self) -> Path:
        """The folder for temporary files."""
        return Path(self.variable("TMPDIR") or self.root / "tmp")

    @property
    def ray_temp_dir(self) -> Path:
        """The folder that a Ray which a run starts here would use."""
        configured = self.experiment.config.runtime.temp_dir if self.experiment is not None else None
        default = Path(self.variable("RAY_TMPDIR") or self.temp_dir) / "ray"
        return default if configured is None else configured.expanduser().absolute()

    def read(self, name: str) -> str | None:
        """Return the text of a small file below `root`, such as "proc/meminfo"; None where it cannot be read."""
        try:
            with (self.root / name).open("rb") as file:
                return file.read(MAX_FACT_BYTES).decode("utf-8", errors="replace")
        except OSError:
            return None

    def which(self, command: str) -> Path | None:
        """Return where a command is on PATH."""
        found = shutil.which(command, path=self.variable("PATH"))
        return Path(found) if found is not None else None

    def gpus(self) -> Sequence[GpuReading]:
        """Return the GPUs that the driver shows. Raises `SilentFactError` when it does not answer in time."""
        with self._lock:
            if not self._gpus:
                self._gpus.append(_Fact(self.read_gpus))
        return self._gpus[0].value(COMMAND_SHARE * self.limit_s)

    def run(self, *command: str) -> CommandOutput | None:
        """Run a command, once for all checks, and return how it ended; None where it is not on PATH.

        It is killed at its time limit, together with what it started.
        """
        with self._lock:
            once = self._outputs.setdefault(command, _Once())
        return once.result(lambda: self._run(command))

    def _run(self, command: tuple[str, ...]) -> CommandOutput | None:
        path = self.which(command[0])
        if path is None:
            return None
        process = subprocess.Popen(
            [str(path), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(self.environment),
            start_new_session=True,
        )
        try:
            shown, _ = process.communicate(timeout=COMMAND_SHARE * self.limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return CommandOutput(None, "")
        return CommandOutput(process.returncode, shown.decode("utf-8", errors="replace"))

    def mount(self, path: Path) -> Mount | None:
        """Return the mount that holds `path`."""
        return mount_of(path, self.root / "proc/self/mountinfo")

    def usage(self, path: Path) -> DiskUsage | None:
        """Return the sizes of the file system under `path`, which need not exist; None where it cannot be asked."""
        try:
            sizes = os.statvfs(nearest_existing(path))
        except OSError:
            return None
        return DiskUsage(
            total_bytes=sizes.f_blocks * sizes.f_frsize,
            free_bytes=sizes.f_bavail * sizes.f_frsize,
            total_files=sizes.f_files,
            free_files=sizes.f_favail,
            is_noexec=bool(sizes.f_flag & os.ST_NOEXEC),
        )


class SilentFactError(Exception):
    """What several checks need did not answer in time. One of them says so, for all."""


class _Fact:
    """The GPUs, as a thread reads them that may hang for ever."""

    def __init__(self, compute: Callable[[], Sequence[GpuReading]]) -> None:
        self._done = threading.Event()
        self._value: Sequence[GpuReading] = ()
        self._error: Exception | None = None
        threading.Thread(target=self._run, args=(compute,), name="gpus", daemon=True).start()

    def value(self, limit_s: float) -> Sequence[GpuReading]:
        if not self._done.wait(limit_s):
            raise SilentFactError
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self, compute: Callable[[], Sequence[GpuReading]]) -> None:
        try:
            self._value = compute()
        except Exception as error:  # noqa: BLE001 - raised in each thread that waits
            self._error = error
        finally:
            self._done.set()


class _Once:
    """A result that the first caller computes and the others wait for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: list[CommandOutput | None] = []

    def result(self, compute: Callable[[], CommandOutput | None]) -> CommandOutput | None:
        with self._lock:
            if not self._results:
                self._results.append(compute())
            return self._results[0]


def nearest_existing(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that exists."""
    return next((one for one in (path.absolute(), *path.absolute().parents) if one.exists()), Path("/"))


def _addresses(name: str) -> tuple[str, ...]:
    """Return the addresses of a host name. Raises `OSError` when it has none."""
    return tuple(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)))
