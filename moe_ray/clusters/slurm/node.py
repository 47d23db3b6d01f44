"""One node's part in a job, whatever its role: its record, its Ray, its failures."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from moe_ray.clusters.slurm.life import FailedNode, HeadRecord, Life, NodeFailedError, NodeRecord, wait_for
from moe_ray.clusters.slurm.limits import NodeLimits, node_limits
from moe_ray.clusters.slurm.network import addresses, claim_ports
from moe_ray.clusters.slurm.node_copies import CopyOptions, NodeCopies
from moe_ray.clusters.slurm.ray_node import RayNode, job_environment, make_temp_dir
from moe_ray.clusters.slurm.signals import Signals
from moe_ray.errors import UserError

WORKERS_PER_SLOT = 4
MIN_WORKER_PORTS = 50


class AgentOptions(NamedTuple):
    """What the job script tells the agents."""

    run: Path
    gpus: int
    interface: str | None
    temp_dir: Path
    ready_timeout_s: float
    max_failures: int
    max_interruptions: int
    chain: bool
    shares: bool
    copies: CopyOptions
    command: tuple[str, ...]


class Agent:
    """This node's part in the job. Use it as a context: leaving it ends this node's Ray."""

    def __init__(self, options: AgentOptions, life: Life, signals: Signals) -> None:
        self.options = options
        self.life = life
        self.signals = signals
        self.rank = int(os.environ.get("SLURM_NODEID", "0"))
        self.num_nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_NNODES") or "1")
        self.name = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        self.is_head = self.rank == 0
        self.ray: RayNode | None = None
        self._copies = NodeCopies(options.copies, self.marker)
        self.environment: dict[str, str] = dict(os.environ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.ray is not None:
            self.ray.stop()
        self._copies.close()

    @property
    def marker(self) -> str:
        """Names what this life of the job has on this node."""
        return f"{self.life.job_id}.{self.life.restart}.{self.rank}"

    def say(self, text: str) -> None:
        """Print a line to the job's log."""
        print(f"[{self.name} {self.life.job_id}.{self.life.restart}] {text}", flush=True)  # noqa: T201

    def prepare(self) -> NodeLimits:
        """Find out what this node has, and write its record."""
        own = addresses(self.options.interface)
        limits = node_limits(os.environ, wanted_gpus=self.options.gpus)
        folder = make_temp_dir(self.options.temp_dir, f"mr-{self.marker}")
        self.environment = job_environment(
            os.environ, token=self.life.path("token"), temp_dir=folder, is_head=self.is_head
        )
        self.environment.update(self._place_for_copies())
        self.ray = RayNode(folder, self.environment)
        self.ray.prepare()
        self.life.write(
            f"node-{self.rank}.json",
            NodeRecord(rank=self.rank, name=self.name, addresses=own, **limits._asdict()),
        )
        return limits

    def _place_for_copies(self) -> dict[str, str]:
        """Return the variables that name this node's folder for checkpoints; without one, the job goes on."""
        try:
            return self._copies.open(os.environ)
        except UserError as error:
            self.say(f"checkpoints are read from where they are: {error}")
            return {}

    def start_ray(self, host: str, limits: NodeLimits, head: str | None) -> HeadRecord:
        """Begin to start this node's Ray at `host`. Returns the address of the head's server, where this is the head.

        `head` is the address of the cluster to join, None on the head itself.
        """
        assert self.ray is not None
        num_workers = max(MIN_WORKER_PORTS, WORKERS_PER_SLOT * (limits.num_cpus + limits.num_gpus))
        claim = claim_ports(host, num_workers, self.marker)
        self.ray.start(host, claim, limits, head)
        return HeadRecord(host=host, port=claim.ports.gcs)

    def await_ray(self, holds: Callable[[], bool] | None = None) -> None:
        """Return when this node's Ray runs, or when `holds`; or the job must end.

        Raises `NodeFailedError` when Ray has ended or is late.
        """
        timeout_s = self.options.ready_timeout_s
        if not wait_for(lambda: self.signals.must_end or self._is_up() or (holds is not None and holds()), timeout_s):
            raise NodeFailedError(f"Ray did not start within {timeout_s:g} s")

    def say_ready(self) -> None:
        """Tell the head that this node's Ray runs."""
        self.life.mark(f"ready-{self.rank}")

    def _is_up(self) -> bool:
        return self.ray is not None and self.ray.has_started()

    @property
    def has_ray(self) -> bool:
        """True while this node's Ray runs."""
        return self.ray is not None and self.ray.is_running()

    @property
    def is_over(self) -> bool:
        """True once the job must end, or the command has ended."""
        return self.signals.must_end or "ended" in self.life.names()

    def fail(self, error: NodeFailedError) -> None:
        """Tell the head and the log why this node cannot take part, with the last lines of its log."""
        log = self.ray.log() if self.ray is not None else []
        self.life.write(
            f"failed-{self.rank}.json", FailedNode(rank=self.rank, name=self.name, reason=str(error), log=log)
        )
