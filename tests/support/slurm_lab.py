"""A real SLURM cluster on one machine: munge, slurmctld, and a slurmd for each node.

Each node is a network, process, mount, host name and IPC namespace of its own with 4 GPUs that exist for the scheduler
only. They share the file system. Needs root and Debian's slurm-wlm and munge; `why_not` says what is missing.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare")
NETWORK = "10.78.0"
NUM_GPUS = 4
BOOT_TIMEOUT_S = 120.0
SMALL_BYTES = 8 << 20

CONFIG = """\
ClusterName=lab
SlurmctldHost=ctl({network}.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/run/spool_%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd_%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd_%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
InactiveLimit=0
KillWait=15
UnkillableStepTimeout=30
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
DefMemPerCPU=500
GresTypes=gpu
SlurmdParameters=config_overrides
JobRequeue=1
NodeName=node[1-{num_nodes}] NodeAddr={network}.[11-{last}] CPUs=16 RealMemory=16000 Gres=gpu:{num_gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=9 State=UP
"""

# The first process of a node's namespace; killing it is the loss of power.
INIT = """\
hostname "$0"
mount --bind "$1/etc/hosts" /etc/hosts
mount -t tmpfs -o size=2g shm /dev/shm
export SLURM_CONF="$1/etc/slurm.conf"
cd /
slurmd -D -N "$0" >/dev/null 2>&1 &
while :; do sleep 1000 & wait $!; done
"""

LOGIN = 'hostname ctl; mount --bind "$0/etc/hosts" /etc/hosts; export SLURM_CONF="$0/etc/slurm.conf"; exec "$@"'


def why_not() -> str | None:
    """Return why the cluster cannot be started here; None where it can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class SlurmLab:
    """A running cluster. Its folder holds `shared/`, for files of tests, and `small/`, a disk that all nodes see."""

    def __init__(self, folder: Path, num_nodes: int) -> None:
        self.folder = folder
        self.num_nodes = num_nodes
        self.nodes = [f"node{number}" for number in range(1, num_nodes + 1)]
        self.shared = folder / "shared"
        self.small = folder / "small"
        self._names = {host: f"mr{os.getpid()}-{host}" for host in ("ctl", *self.nodes)}
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._inits: dict[str, int] = {}

    def start(self) -> None:
        """Start everything, and return when all nodes are idle."""
        for name in ("etc", "run", "log", "state", "dev", "shared", "small"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        # Before the nodes have mounts of their own.
        _do("mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "small", str(self.small))
        self._configure()
        self._connect()
        run = self.folder / "run"
        _do(
            "munged", f"--key-file={self.folder}/etc/munge.key", f"--socket={run}/munge.sock",
            f"--pid-file={run}/munged.pid", f"--log-file={self.folder}/log/munged.log", f"--seed-file={run}/munge.seed",
        )  # fmt: skip
        self.on("ctl", "slurmctld", "-c")
        for node in self.nodes:
            self.boot(node)
        self.wait_for_idle(self.num_nodes)

    def _configure(self) -> None:
        etc = self.folder / "etc"
        hosts = [f"{self._address(host)} {host}" for host in self._names]
        (etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts]) + "\n")
        (etc / "munge.key").write_bytes(os.urandom(1024))
        (etc / "munge.key").chmod(0o600)
        for number in range(NUM_GPUS):
            os.mknod(self.folder / "dev" / f"nvidia{number}", 0o20666, os.makedev(1, 3))
        (etc / "gres.conf").write_text(f"Name=gpu File={self.folder}/dev/nvidia[0-{NUM_GPUS - 1}]\n")
        sizes = {"num_nodes": self.num_nodes, "last": 10 + self.num_nodes, "num_gpus": NUM_GPUS}
        (etc / "slurm.conf").write_text(CONFIG.format(network=NETWORK, folder=self.folder, **sizes))

    @staticmethod
    def _address(host: str) -> str:
        return f"{NETWORK}.1" if host == "ctl" else f"{NETWORK}.{10 + int(host.removeprefix('node'))}"

    def _connect(self) -> None:
        ctl = self._names["ctl"]
        for name in self._names.values():
            _do("ip", "netns", "add", name)
            _do("ip", "-n", name, "link", "set", "lo", "up")
        _do("ip", "-n", ctl, "link", "add", "br0", "type", "bridge")
        _do("ip", "-n", ctl, "addr", "add", f"{NETWORK}.1/24", "dev", "br0")
        _do("ip", "-n", ctl, "link", "set", "br0", "up")
        for node in self.nodes:
            name = self._names[node]
            _do("ip", "link", "add", "veth0", "netns", name, "type", "veth", "peer", "name", node, "netns", ctl)
            _do("ip", "-n", ctl, "link", "set", node, "master", "br0", "up")
            _do("ip", "-n", name, "addr", "add", f"{self._address(node)}/24", "dev", "veth0")
            _do("ip", "-n", name, "link", "set", "veth0", "up")

    def boot(self, node: str) -> None:
        """Switch a node on."""
        command = [
            "nsenter", f"--net=/run/netns/{self._names[node]}", "unshare", "--uts", "--ipc", "--pid", "--fork",
            "--mount", "--mount-proc", "--kill-child=SIGKILL", "bash", "-c", INIT, node, str(self.folder),
        ]  # fmt: skip
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._nodes[node] = process = subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: bool(children.read_text().split()), f"{node} boots", BOOT_TIMEOUT_S)
        self._inits[node] = int(children.read_text().split()[0])

    def cut_power(self, node: str) -> None:
        """End every process of a node at once."""
        os.kill(self._inits.pop(node), signal.SIGKILL)
        self._nodes.pop(node).wait()

    @contextmanager
    def cut_off(self, node: str) -> Iterator[None]:
        """Disconnect a node from the network within this context."""
        _do("ip", "-n", self._names["ctl"], "link", "set", node, "down")
        try:
            yield
        finally:
            _do("ip", "-n", self._names["ctl"], "link", "set", node, "up")

    def command_on(self, host: str, command: Sequence[str]) -> list[str]:
        """Return the command line that runs `command` on a host; `ctl` is the login node."""
        if host == "ctl":
            net = f"--net=/run/netns/{self._names['ctl']}"
            return ["nsenter", net, "unshare", "--uts", "--mount", "bash", "-c", LOGIN, str(self.folder), *command]
        inside = ["nsenter", "-t", str(self._inits[host]), "-n", "-u", "-i", "-p", "-m"]
        return [*inside, "env", f"SLURM_CONF={self.folder}/etc/slurm.conf", *command]

    def on(
        self,
        host: str,
        *command: str,
        check: bool = True,
        timeout_s: float = 120,
        environment: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host."""
        done = subprocess.run(
            self.command_on(host, command), capture_output=True, text=True, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL, env=lab_environment(environment or {}),
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def moe_ray(
        self, *arguments: object, check: bool = True, environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run `moe-ray` on the login node."""
        return self.on(
            "ctl", sys.executable, "-m", "moe_ray", *map(str, arguments), check=check, environment=environment
        )

    def wait_for_idle(self, num_nodes: int) -> None:
        """Return when so many nodes are idle."""

        def is_idle() -> bool:
            done = self.on("ctl", "sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D", check=False)
            return done.stdout.strip() == str(num_nodes)

        wait_until(is_idle, f"{num_nodes} nodes are idle", BOOT_TIMEOUT_S)

    def processes(self, node: str, pattern: str) -> list[str]:
        """The command lines on a node that contain `pattern`."""
        found = self.on(node, "ps", "-eo", "pid,stat,args", "ww").stdout.splitlines()
        return [line for line in found if pattern in line and "ps -eo" not in line]

    def stop(self) -> None:
        """End the cluster and remove its folder."""
        for process in self._nodes.values():
            process.kill()
        for init in self._inits.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(init, signal.SIGKILL)
        for process in self._nodes.values():
            process.wait()
        for name in ("slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                pid = int((self.folder / "run" / f"{name}.pid").read_text())
                os.kill(pid, signal.SIGTERM)
                wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"{name} ends", 10)  # type: ignore[misc]
        for name in self._names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["umount", str(self.small)], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def slurm_lab(folder: Path, num_nodes: int) -> Iterator[SlurmLab]:
    """A cluster of `num_nodes` nodes in `folder`, which must not exist and is removed."""
    lab = SlurmLab(folder, num_nodes)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()


def lab_environment(more: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables of other schedulers and clusters, with this checkout of moe_ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_", "SBATCH_"))}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    path = f"{kept.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    return {**kept, "PATH": path, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Return as soon as `holds`; fails where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.1)


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=lab_environment({}))
    assert done.returncode == 0, f"{command}: {done.stderr}"
