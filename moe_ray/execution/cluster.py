"""The Ray cluster of a run: an existing one, or one started for this run."""

import atexit
import logging
import math
import os
import platform
import secrets
import signal
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import moe_ray
from moe_ray.config.schema import RuntimeConfig
from moe_ray.errors import CapacityError, RayUnresponsiveError, UserError, first_line
from moe_ray.execution import ray_calls
from moe_ray.execution.cores import usable_cores
from moe_ray.execution.discovery import wanted_address
from moe_ray.execution.node_agent import NodeAgent, NodeHardware
from moe_ray.execution.ray_calls import Diagnosis, LocalProcesses, knock
from moe_ray.execution.temp_dir import ray_temp_dir
from moe_ray.planning.fleet import Fleet, Node, cpu_slots

INJECTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def job_options() -> dict[str, Any]:
    """Return the job description for `ray.init`; empty inside a submitted job, which has one.

    Ray puts the driver's working directory first on its workers' import path, where a file such as pandas.py would be
    imported in place of the library. It does so for all jobs but those of its client, so the job says that it is one.
    A checkout that is not installed is made importable by the folder that holds it.
    """
    if INJECTED in os.environ:
        return {}
    package = Path(moe_ray.__file__).resolve().parents[1]
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    paths = [] if package in installed else [str(package)]
    return {"job_config": JobConfig(_client_job=True, _py_driver_sys_path=paths)}


AGENT_TIMEOUT_S = 60.0
AGENT_TURN_S = 1.0
AGENT_THREADS = 16
NODE_ID_CHARACTERS = 6
START_PATIENCE_S = 180.0
SHUTDOWN_PATIENCE_S = 20.0
_QUIETLY: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}


class NotJoinedError(UserError):
    """There is no cluster to join at the address."""


@cache
def actor_class(kind: type) -> Any:
    """Return `kind` as a Ray actor class. Cached: Ray inspects and exports the class on each call."""
    remote: Any = ray.remote
    return remote(kind)


def living_nodes() -> list[dict[str, Any]]:
    """Return the nodes that Ray's head says are alive. Raises `RayUnresponsiveError` when this process's is not."""
    ray_calls.check()
    nodes: list[dict[str, Any]] = ray_calls.call(ray.nodes)
    own = ray.get_runtime_context().get_node_id()
    if any(node["NodeID"] == own and not node["Alive"] for node in nodes):
        raise RayUnresponsiveError("the raylet of this machine is stopped or has ended; the head gave its node up")
    return [node for node in nodes if node["Alive"]]


def _name(node: Mapping[str, Any]) -> str:
    """A node's address; where several raylets share one machine, with the beginning of its id."""
    address = str(node["NodeManagerAddress"])
    shared = sum(other["NodeManagerAddress"] == address for other in living_nodes()) > 1
    return f"{address}#{node['NodeID'][:NODE_ID_CHARACTERS]}" if shared else address


class Cluster:
    """The nodes that are alive, each with its agent."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        self._runtime = runtime
        self._agents: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}
        self._expected_until: dict[str, float] = {}
        self._num_gpus: dict[str, int] = {}
        self.hardware: dict[str, NodeHardware] = {}

    def agent(self, node: str) -> Any:
        """Return the agent of a node, None when the node is gone."""
        return self._agents.get(node)

    def alive(self) -> set[str]:
        """Ids of the nodes that Ray holds for alive."""
        return {node["NodeID"] for node in living_nodes()}

    def discover(self, known: Mapping[str, Node], *, patience_s: float) -> list[Node]:
        """Return the live nodes that are not `known` and whose agents answer within `patience_s`.

        A node that is slow to answer is returned by a later call; one that dies meanwhile never is.
        """
        fresh = {node["NodeID"]: node for node in living_nodes() if node["NodeID"] not in known}
        for node in fresh.keys() - self._asked.keys():
            self._ask(node)
        if not fresh:
            return []
        waiting = [self._asked[node] for node in fresh]
        answered = self._answered(waiting, patience_s)
        offers = (self._offer(fresh[node]) for node in fresh if self._asked[node] in answered)
        return [node for node in offers if node is not None]

    @staticmethod
    def _answered(waiting: list[Any], patience_s: float) -> list[Any]:
        """Return those of `waiting` that answer in time, asked in short turns so that a silent head is noticed."""
        deadline = time.monotonic() + patience_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            turn_s = min(left_s, AGENT_TURN_S)
            answered: list[Any] = ray_calls.call(ray.wait, waiting, num_returns=len(waiting), timeout=turn_s)[0]
            if len(answered) == len(waiting) or left_s <= AGENT_TURN_S:
                return answered
            living_nodes()

    @property
    def is_expecting(self) -> bool:
        """True while a node that came has not said yet what it offers, for a limited time."""
        return any(time.monotonic() < limit for limit in self._expected_until.values())

    def _ask(self, node: str) -> None:
        affinity = NodeAffinitySchedulingStrategy(node, soft=False)
        agent_class = actor_class(NodeAgent).options(
            num_cpus=0, max_concurrency=AGENT_THREADS, max_restarts=-1, scheduling_strategy=affinity
        )
        self._agents[node] = ray_calls.call(agent_class.remote)
        self._asked[node] = ray_calls.call(self._agents[node].hardware.remote)
        self._expected_until.setdefault(node, time.monotonic() + AGENT_TIMEOUT_S)

    def _offer(self, entry: Mapping[str, Any]) -> Node | None:
        try:
            answer: Any = ray_calls.call(ray.get, self._asked[entry["NodeID"]])
        except RayError:
            # The node is going, or cannot start a process now: no place to work on, and asked again later.
            del self._agents[entry["NodeID"]], self._asked[entry["NodeID"]]
            return None
        hardware: NodeHardware = answer
        self.hardware[entry["NodeID"]] = hardware
        del self._expected_until[entry["NodeID"]]
        return self._node(entry, hardware)

    def forget(self, node: str) -> None:
        """Drop the agent of a node that is gone; its GPUs may be replaced by others within `runtime.gpus`."""
        self._agents.pop(node, None)
        self._asked.pop(node, None)
        self._num_gpus.pop(node, None)
        self._expected_until.pop(node, None)

    def close(self) -> None:
        """End the agents."""
        for agent in self._agents.values():
            ray_calls.call_at_end(ray.kill, agent)
        self._agents.clear()

    def _node(self, entry: Mapping[str, Any], hardware: NodeHardware) -> Node:
        resources = entry["Resources"]
        num_cpus, num_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if self._runtime.gpus != "auto":
            num_gpus = min(num_gpus, self._runtime.gpus - sum(self._num_gpus.values()))
        self._num_gpus[entry["NodeID"]] = num_gpus
        gpu_bytes = tuple(hardware.gpu_bytes[i] if i < len(hardware.gpu_bytes) else None for i in range(num_gpus))
        return Node(
            id=entry["NodeID"],
            name=_name(entry),
            num_cpus=num_cpus,
            cpu_slots=cpu_slots(self._runtime, num_cpus),
            gpu_bytes=gpu_bytes,
        )


def starts_ray(runtime: RuntimeConfig) -> bool:
    """Say whether `connect` would start a Ray of its own, which ends with the connection."""
    return not ray.is_initialized() and wanted_address(runtime.address, os.environ) is None


@contextmanager
def connect(runtime: RuntimeConfig) -> Iterator[Cluster]:
    """Join the Ray cluster at `runtime.address`, or start one on this machine, and leave it at the end.

    Inside a Ray job RAY_ADDRESS names the cluster, and an absent address means that one. A process that is connected
    already (a test, a notebook) lends its connection and keeps it. Where Ray does not answer within
    `runtime.ray_timeout_s`, a call into it raises `RayUnresponsiveError`; this leaves a cluster, and ends one that it
    started, also then.
    """
    temp_dir = ray_temp_dir(runtime.temp_dir)
    with _borrowed(runtime) if ray.is_initialized() else _connection(runtime, temp_dir):
        cluster = Cluster(runtime)
        try:
            yield cluster
        finally:
            cluster.close()


def _borrowed(runtime: RuntimeConfig) -> AbstractContextManager[None]:
    return ray_calls.watching(runtime.ray_timeout_s, lambda _waited_s: None)


@contextmanager
def _connection(runtime: RuntimeConfig, temp_dir: str | None) -> Iterator[None]:
    address = wanted_address(runtime.address, os.environ)
    processes, timeout_s = LocalProcesses(), runtime.ray_timeout_s
    try:
        _initialise(runtime, address, temp_dir)
        processes.note()
        with ray_calls.watching(timeout_s, Diagnosis(ray.get_runtime_context().gcs_address, processes, timeout_s)):
            yield
    except NotJoinedError:
        raise
    except BaseException:
        _leave(processes, ray_calls.ENDING_PATIENCE_S)
        raise
    else:
        _leave(processes, SHUTDOWN_PATIENCE_S)


def _leave(processes: LocalProcesses, patience_s: float) -> None:
    """Disconnect from Ray. Its processes that this run started are ended, whether Ray answers or not."""
    try:
        if not ray_calls.call_at_end(ray.shutdown, patience_s=patience_s):
            atexit.unregister(ray.shutdown)
    finally:
        processes.end()


def _initialise(runtime: RuntimeConfig, address: str | None, temp_dir: str | None) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray itself aborts a process, with lines of its own, when its head was away for so long (60 s where this is unset).
    limit_s = math.ceil(max(60.0, 2 * runtime.ray_timeout_s))
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(limit_s))
    with _own_sigterm():
        if address is None:
            _start(temp_dir)
        else:
            _join(address, runtime.ray_timeout_s)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray's native part installs one that aborts the process."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def restore(_waited_s: float = 0.0) -> None:
        signal.signal(signal.SIGTERM, handler)

    try:
        with ray_calls.watching(START_PATIENCE_S, restore):
            yield
    finally:
        restore()


def _join(address: str, timeout_s: float) -> None:
    if "://" in address:
        raise NotJoinedError(
            f"{address!r} is not the address of a cluster's head",
            where="runtime.address or RAY_ADDRESS",
            remedy="write auto on a machine of the cluster, or host:port of its head (6379, as ray start --head prints "
            "it); from outside, send the run there with moe-ray submit",
        )
    try:
        knock(address)
        # Ray's core logs its retries before ray.init raises the error.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        ray_calls.call_within(timeout_s, ray.init, address=address, **_QUIETLY, **job_options())
    except (OSError, ValueError, RuntimeError, RayError, RayUnresponsiveError) as error:
        raise NotJoinedError(
            f"cannot join a Ray cluster at {address!r}: {first_line(error)}",
            where="runtime.address or RAY_ADDRESS",
            remedy="start one (ray start --head), check host and port and, with token authentication, "
            "RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH; or leave address out to run on this machine",
        ) from error


def _start(temp_dir: str | None) -> None:
    if "RAY_AUTH_MODE" not in os.environ:
        # Ray listens on all interfaces, and where no mode is set it asks for a token. One for this run alone leaves no
        # file in the home folder. The mode itself is left to ray.init, which must also tell its loaded native part.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    own = {"num_cpus": usable_cores(), "include_dashboard": False, "_temp_dir": temp_dir}
    options = {**own, **_QUIETLY, **job_options()}
    ray_calls.call_within(START_PATIENCE_S, ray.init, address="local", **options)


def fleet_of(cluster: Cluster) -> Fleet:
    """Return the fleet of all nodes that are alive now; raises `CapacityError` when there is no slot at all."""
    fleet = Fleet(tuple(cluster.discover({}, patience_s=AGENT_TIMEOUT_S)))
    if not any(node.cpu_slots or node.gpu_bytes for node in fleet.nodes.values()):
        raise CapacityError(
            "the cluster has neither CPUs nor GPUs to run on",
            where=platform.node(),
            remedy="start its nodes with --num-cpus or --num-gpus above 0",
        )
    return fleet
