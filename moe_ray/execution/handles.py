"""Handles of replicas: start one, feed it, watch its calls, end its process, keep its telemetry."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from moe_ray.execution import ray_calls
from moe_ray.execution.cluster import actor_class
from moe_ray.execution.replica import Loaded, Replica, ReplicaPlace, ReplicaSpec, ShardResult, Usage
from moe_ray.planning.cells import Cell, Shard
from moe_ray.planning.fleet import Node
from moe_ray.planning.scheduler import Start
from moe_ray.store.records import ReplicaTelemetry

CallKind = Literal["place", "load", "shard", "probe", "close", "departure"]
DEPARTURE_TIMEOUT_S = 60.0
# Ray counts cores in ten-thousandths.
CORE_STEPS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that is under way on Ray. `deadline` is on the monotonic clock, in seconds."""

    kind: CallKind
    replica: str
    deadline: float
    shard: Shard | None = None


@dataclass(slots=True)
class ReplicaHandle:
    """One replica as the driver sees it.

    It is `unwatched` when it is departing and its node has no agent any more. Its telemetry is
    written down again from `record_due` on (monotonic clock).
    """

    start: Start
    actor: Any
    telemetry: ReplicaTelemetry
    ready: bool = False
    departing: bool = False
    unwatched: bool = False
    record_due: float = 0.0
    shards: list[str] = field(default_factory=list)
    unload_started: float = 0.0
    energy_before_j: float | None = None

    @property
    def name(self) -> str:
        return self.start.replica

    def note_place(self, place: ReplicaPlace) -> None:
        record = self.telemetry
        record.pid = place.pid
        record.gpu_ids, record.gpu_uuids = list(place.gpu_ids), list(place.gpu_uuids)
        record.cuda_visible_devices = place.cuda_visible_devices
        record.gpu_bytes_before_load = place.gpu_bytes
        self.energy_before_j = place.energy_j

    def note_loaded(self, loaded: Loaded) -> None:
        self.ready = True
        self.telemetry.load_s = loaded.load_s
        self.note_usage(loaded.usage)

    def note_shard(self, result: ShardResult) -> None:
        record = self.telemetry
        record.busy_s += result.busy_s
        record.num_answers += result.table.num_rows
        record.num_prompt_tokens += result.num_prompt_tokens
        record.num_completion_tokens += result.num_completion_tokens
        self.note_usage(result.usage)

    def note_usage(self, usage: Usage) -> None:
        record = self.telemetry
        record.device, record.weights_bytes, record.batching = usage.device, usage.weights_bytes, usage.batching
        record.peak_resident_bytes = _larger(record.peak_resident_bytes, usage.peak_resident_bytes)
        record.peak_torch_bytes = _larger(record.peak_torch_bytes, usage.peak_torch_bytes)
        record.peak_gpu_process_bytes = _larger(record.peak_gpu_process_bytes, usage.gpu_process_bytes)
        record.peak_gpu_device_bytes = _larger(record.peak_gpu_device_bytes, usage.gpu_device_bytes)
        if usage.energy_j is not None and self.energy_before_j is not None:
            record.gpu_energy_j = usage.energy_j - self.energy_before_j


def _larger(known: int | None, seen: int | None) -> int | None:
    return seen if known is None else known if seen is None else max(known, seen)


def cores_of_a_slot(node: Node) -> float:
    """A CPU slot's share of its node's cores, rounded down: Ray would round 2/3 up, and then three exceed 2."""
    return math.floor(node.num_cpus / node.cpu_slots * CORE_STEPS) / CORE_STEPS


def open_replica(start: Start, node: Node, spec: ReplicaSpec, session: str) -> ReplicaHandle:
    """Ask Ray for the actor of `start`, on its node and with its GPUs. The actor is not there yet."""
    options: dict[str, Any] = {
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False),
        "num_gpus": start.slot.num_gpus,
        "num_cpus": 0 if spec.uses_gpu else cores_of_a_slot(node),
        "max_restarts": 0,
        "max_task_retries": 0,
    }
    actor = ray_calls.call(actor_class(Replica).options(**options).remote, spec)
    telemetry = ReplicaTelemetry(
        replica=spec.replica,
        model=start.model,
        session=session,
        node=node.name,
        pid=0,
        device="unknown",
        started_at=time.time(),
    )
    return ReplicaHandle(start=start, actor=actor, telemetry=telemetry)


class Calls:
    """The calls under way: a bounded window over `ray.wait`."""

    def __init__(self) -> None:
        self._calls: dict[Any, Call] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, ref: Any, call: Call) -> None:
        self._calls[ref] = call

    def ready(self, timeout_s: float) -> list[tuple[Any, Call]]:
        """Wait for at least one call to end, at most `timeout_s`, and take all that have ended."""
        if not self._calls:
            time.sleep(timeout_s)
            return []
        refs = list(self._calls)
        first, rest = ray_calls.call(ray.wait, refs, num_returns=1, timeout=timeout_s, fetch_local=True)
        more = (
            ray_calls.call(ray.wait, rest, num_returns=len(rest), timeout=0, fetch_local=True)[0]
            if rest and first
            else []
        )
        return [(ref, self._calls.pop(ref)) for ref in [*first, *more]]

    def overdue(self) -> list[Call]:
        """Calls whose deadline has passed: of each replica the first, which holds up the others."""
        now = time.monotonic()
        late: dict[str, Call] = {}
        for call in self._calls.values():
            if now > call.deadline:
                late.setdefault(call.replica, call)
        return list(late.values())

    def drop(self, replica: str) -> None:
        """Forget the calls of a replica that is gone."""
        self._calls = {ref: call for ref, call in self._calls.items() if call.replica != replica}


def begin_place(handle: ReplicaHandle, calls: Calls, timeout_s: float) -> None:
    _begin(handle, calls, "place", ray_calls.call(handle.actor.place.remote), timeout_s)


def begin_load(handle: ReplicaHandle, calls: Calls, timeout_s: float) -> None:
    _begin(handle, calls, "load", ray_calls.call(handle.actor.load.remote), timeout_s)


def begin_shard(handle: ReplicaHandle, calls: Calls, shard: Shard, timeout_s: float) -> None:
    handle.shards.append(shard.id)
    # A shard that waits behind others may take as long as all of them.
    patience_s = timeout_s * len(handle.shards)
    _begin(handle, calls, "shard", ray_calls.call(handle.actor.run.remote, shard), patience_s, shard)


def begin_probe(handle: ReplicaHandle, calls: Calls, cells: Sequence[Cell], timeout_s: float) -> None:
    _begin(handle, calls, "probe", ray_calls.call(handle.actor.probe.remote, cells), timeout_s)


def begin_close(handle: ReplicaHandle, calls: Calls) -> None:
    handle.unload_started = time.monotonic()
    _begin(handle, calls, "close", ray_calls.call(handle.actor.close.remote), DEPARTURE_TIMEOUT_S)


def begin_departure(handle: ReplicaHandle, calls: Calls, agent: Any) -> bool:
    """Kill the replica's process, and let the node's agent wait for its end; False without an agent."""
    ray_calls.call(ray.kill, handle.actor)
    handle.departing = True
    handle.unload_started = handle.unload_started or time.monotonic()
    record = handle.telemetry
    if agent is None or not record.pid:
        return False
    # On a shared GPU the others' memory comes and goes: only a sole holder's can be said to have come back.
    bytes_before = record.gpu_bytes_before_load if handle.start.slot.share == 1 else None
    ref = ray_calls.call(agent.await_departure.remote, record.pid, record.gpu_uuids, bytes_before, DEPARTURE_TIMEOUT_S)
    _begin(handle, calls, "departure", ref, 2 * DEPARTURE_TIMEOUT_S)
    return True


def _begin(
    handle: ReplicaHandle, calls: Calls, kind: CallKind, ref: Any, timeout_s: float, shard: Shard | None = None
) -> None:
    deadline = time.monotonic() + timeout_s
    calls.add(ref, Call(kind=kind, replica=handle.name, deadline=deadline, shard=shard))
