"""The executor: reports events on Ray to the scheduler, and carries out its decisions on Ray.

Ray's own retries are off. A lost shard goes back to the queue, a bounded number of times; what is committed stays.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import ray
from ray.exceptions import RayError, RayTaskError

from moe_ray.config.schema import ExperimentConfig
from moe_ray.engines.base import BatchLimits
from moe_ray.engines.settings import secrets_of
from moe_ray.errors import EngineLostError, UserError
from moe_ray.execution import handles as h
from moe_ray.execution import interruption, ray_calls
from moe_ray.execution.claims import AllClaims, Claims
from moe_ray.execution.cluster import Cluster
from moe_ray.execution.node_agent import Departure
from moe_ray.execution.observer import RunObserver
from moe_ray.execution.ray_calls import reason_of
from moe_ray.execution.replica import ReplicaSpec, ShardResult
from moe_ray.planning.cells import Cell, Shard
from moe_ray.planning.fleet import Fleet
from moe_ray.planning.memory import GIB
from moe_ray.planning.plan import Placement, Workload
from moe_ray.planning.scheduler import Abandoned, Scheduler, Start
from moe_ray.store.run_directory import RunDirectory

TICK_S = 0.5
NODE_POLL_S = 1.0
# A replica's telemetry is one file, made durable each time it is written; at the end it always is.
TELEMETRY_S = 10.0
# A placed actor starts within seconds; longer means that another job holds the resources.
PLACE_TIMEOUT_S = 180.0
# The shard that is computed and one that waits at the actor, so that it never idles between two.
SHARDS_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJob:
    """All that an execution needs to know. `identities` are the models' (`ModelIdentity.key`), for the telemetry."""

    config: ExperimentConfig
    work: Workload
    placement: Placement
    session: str
    probes: Mapping[str, Sequence[Cell]]
    identities: Mapping[str, str]


class Executor:
    """Runs one job on one cluster, into one run directory."""

    def __init__(
        self,
        job: RunJob,
        cluster: Cluster,
        fleet: Fleet,
        run: RunDirectory,
        observer: RunObserver,
        claims: Claims | None = None,
    ) -> None:
        self._job = job
        self._cluster = cluster
        self._run = run
        self._observer = observer
        self._claims = claims or AllClaims()
        self._scheduler = Scheduler(
            fleet,
            job.placement.demands,
            job.work.shards,
            costs=job.placement.costs,
            max_attempts=job.config.runtime.max_attempts,
        )
        self._replicas: dict[str, h.ReplicaHandle] = {}
        self._calls = h.Calls()
        self._probed: set[str] = set()
        self._noticed: set[tuple[str, str]] = set()
        self._num_reported = 0
        self._next_node_poll = 0.0

    def execute(self) -> list[Abandoned]:
        """Work until nothing is left, and return what was given up. On any exception all replicas are ended."""
        try:
            while not self._is_finished:
                self._step()
        finally:
            self._end_all()
        return self._scheduler.abandoned

    @property
    def _is_finished(self) -> bool:
        return self._scheduler.finished and self._claims.finished

    def _step(self) -> None:
        interruption.check()
        self._share()
        for start in self._scheduler.starts():
            self._open(start)
        if not self._cluster.is_expecting:
            self._scheduler.give_up_stranded()
        for ref, call in self._calls.ready(0.0 if self._is_finished else TICK_S):
            self._handle(ref, call)
        for call in self._calls.overdue():
            handle = self._replicas[call.replica]
            if call.kind == "departure":
                self._departed(handle, None)
            else:
                self._lose(handle, f"no end of {call.kind} within its time limit")
        self._watch_nodes()
        self._report_abandoned()

    def _share(self) -> None:
        """Leave to other processes of a shared run what they compute, and queue what they left."""
        news = self._claims.look(is_idle=self._scheduler.finished)
        if news.withdrawn:
            self._scheduler.withdraw(news.withdrawn)
        for shard in news.freed:
            self._scheduler.add(shard)
        for model, num_cells in news.committed.items():
            self._observer.committed(model, num_cells, 0)

    def _open(self, start: Start) -> None:
        node = self._scheduler.fleet.nodes[start.slot.node]
        handle = h.open_replica(start, node, self._spec(start), self._job.session)
        handle.telemetry.identity = self._job.identities[start.model]
        self._replicas[handle.name] = handle
        h.begin_place(handle, self._calls, min(PLACE_TIMEOUT_S, self._job.config.runtime.start_timeout_s))
        self._tell(handle, "starting", ", ".join(f"{place} of {node.name}" for _, place in start.slot.places))

    def _spec(self, start: Start) -> ReplicaSpec:
        runtime = self._job.config.runtime
        return ReplicaSpec(
            replica=f"{start.replica}-{self._job.session}",
            model_name=start.model,
            model=self._job.config.models[start.model],
            decoding=self._job.config.decoding,
            limits=BatchLimits(max_rows=runtime.batch_size, cache_memory_bytes=int(runtime.batch_memory_gib * GIB)),
            cpu_threads=runtime.cpu_threads,
            uses_gpu=bool(start.slot.gpu_indices),
            environment=secrets_of(self._job.config.models[start.model]),
        )

    def _handle(self, ref: Any, call: h.Call) -> None:
        handle = self._replicas.get(call.replica)
        if handle is None or (handle.departing and call.kind != "departure"):
            # Another call reported its death at the same time; this shard is queued again.
            return
        try:
            result = ray_calls.call(ray.get, ref)
        except RayTaskError as error:
            self._task_failed(handle, call, error)
        except RayError as error:
            self._call_lost(handle, call, reason_of(error))
        else:
            self._succeeded(handle, call, result)

    def _succeeded(self, handle: h.ReplicaHandle, call: h.Call, result: Any) -> None:
        if call.kind == "place":
            handle.note_place(result)
            h.begin_load(handle, self._calls, self._job.config.runtime.start_timeout_s)
            self._tell(handle, "loading", "")
        elif call.kind == "load":
            handle.note_loaded(result)
            self._scheduler.loaded(handle.name, result.load_s)
            self._tell(handle, "ready", f"loaded in {result.load_s:.1f} s")
            self._notice_once(handle, result.notice)
            self._feed(handle)
        elif call.kind == "shard":
            self._commit(handle, call, result)
            self._feed(handle)
        elif call.kind == "probe":
            handle.telemetry.probe = result
            h.begin_close(handle, self._calls)
        elif call.kind == "close":
            handle.note_usage(result)
            handle.telemetry.end = "finished"
            self._depart(handle)
        else:
            self._departed(handle, result)

    def _commit(self, handle: h.ReplicaHandle, call: h.Call, result: ShardResult) -> None:
        assert call.shard is not None
        self._run.write_shard_table(result.table)
        self._claims.committed(call.shard)
        handle.shards.remove(call.shard.id)
        handle.note_shard(result)
        if time.monotonic() >= handle.record_due:
            self._run.write_telemetry(handle.telemetry)
            handle.record_due = time.monotonic() + TELEMETRY_S
        self._scheduler.completed(handle.name, call.shard.id, result.busy_s)
        num_errors = pc.sum(pc.is_valid(result.table["error"])).as_py() or 0
        if num_errors:
            self._tell(handle, "ready", f"{num_errors} answers with errors")
        self._observer.committed(handle.start.model, result.table.num_rows, result.num_completion_tokens)

    def _feed(self, handle: h.ReplicaHandle) -> None:
        """Keep the replica's window full; when nothing is left for it, probe its latency once and let it go."""
        while len(handle.shards) < SHARDS_IN_FLIGHT:
            shard = self._next_shard(handle.name)
            if shard is None:
                break
            h.begin_shard(handle, self._calls, shard, self._job.config.runtime.shard_timeout_s)
        if not self._scheduler.is_idle(handle.name):
            return
        cells = self._job.probes.get(handle.start.model, ())
        if cells and handle.start.model not in self._probed and self._claims.take_probe(handle.start.model):
            self._probed.add(handle.start.model)
            h.begin_probe(handle, self._calls, cells, self._job.config.runtime.shard_timeout_s)
        else:
            h.begin_close(handle, self._calls)

    def _next_shard(self, replica: str) -> Shard | None:
        """Return the next shard that is this process's to compute."""
        while (shard := self._scheduler.next_shard(replica)) is not None and not self._claims.take(shard):
            self._scheduler.pass_on(replica, shard.id)
        return shard

    def _task_failed(self, handle: h.ReplicaHandle, call: h.Call, error: RayTaskError) -> None:
        """A method of the actor raised; the actor lives, and goes on unless it says that its engine cannot."""
        if call.kind == "shard" and not isinstance(error.cause, EngineLostError):
            assert call.shard is not None
            handle.shards.remove(call.shard.id)
            reason = reason_of(error)
            self._scheduler.failed(handle.name, call.shard.id, reason)
            self._observer.notice(
                f"{handle.name}: {len(call.shard.cells)} answers failed and are tried again ({reason})"
            )
            self._feed(handle)
        elif call.kind == "load":
            self._start_failed(handle, reason_of(error), permanent=isinstance(error.cause, UserError))
        else:
            self._call_lost(handle, call, reason_of(error))

    def _start_failed(self, handle: h.ReplicaHandle, reason: str, *, permanent: bool) -> None:
        self._scheduler.start_failed(handle.name, reason, permanent=permanent)
        handle.telemetry.end, handle.telemetry.reason = "failed_to_start", reason
        self._tell(handle, "failed", reason)
        self._depart(handle)

    def _call_lost(self, handle: h.ReplicaHandle, call: h.Call, reason: str) -> None:
        """A call has no end: its actor is dead, or, for a departure, the agent that watched it is.

        Then the node may be dead too, though Ray does not say so yet: a slot on it is not free before that is known.
        """
        if call.kind == "departure":
            handle.unwatched = True
        else:
            self._lose(handle, reason)

    def _lose(self, handle: h.ReplicaHandle, reason: str) -> None:
        """The replica is dead, or as good as dead: requeue its work, end its process, free its slot when it is gone."""
        node_gone = handle.start.slot.node not in self._cluster.alive()
        self._next_node_poll = 0.0
        if handle.ready:
            self._scheduler.lost(handle.name, handle.shards[:1], reason, node_gone=node_gone)
        else:
            self._scheduler.start_failed(handle.name, reason, permanent=False, node_gone=node_gone)
        handle.telemetry.end, handle.telemetry.reason = "lost", reason
        self._tell(handle, "lost", reason)
        self._depart(handle)

    def _depart(self, handle: h.ReplicaHandle) -> None:
        self._calls.drop(handle.name)
        if not h.begin_departure(handle, self._calls, self._cluster.agent(handle.start.slot.node)):
            self._departed(handle, None)

    def _departed(self, handle: h.ReplicaHandle, seen: Departure | None) -> None:
        """Free the slot. `seen` is the report of the node's agent; None when the node had no agent."""
        self._calls.drop(handle.name)
        record = handle.telemetry
        record.unload_s = time.monotonic() - handle.unload_started
        if seen is not None:
            record.gpu_bytes_after_unload = seen.gpu_bytes
            if not (seen.gone and seen.memory_returned):
                what = "memory" if seen.gone else "process"
                record.reason = record.reason or f"its {what} was still there when the time to leave was up"
        self._run.write_telemetry(record)
        del self._replicas[handle.name]
        self._scheduler.retired(handle.name)
        self._tell(handle, "gone", record.reason or "")

    def _watch_nodes(self) -> None:
        """Give up the places of nodes that died, and use those of nodes that came."""
        if time.monotonic() < self._next_node_poll:
            return
        self._next_node_poll = time.monotonic() + NODE_POLL_S
        known, alive = dict(self._scheduler.fleet.nodes), self._cluster.alive()
        for node in known.keys() - alive:
            self._scheduler.node_lost(node)
            self._cluster.forget(node)
            for handle in [entry for entry in self._replicas.values() if entry.start.slot.node == node]:
                if handle.departing:
                    self._departed(handle, None)
                else:
                    self._lose(handle, f"its node {known[node].name} is gone")
        for handle in [entry for entry in self._replicas.values() if entry.unwatched]:
            self._watch_again(handle)
        if alive - known.keys():
            for fresh in self._cluster.discover(known, patience_s=0.0):
                self._scheduler.node_joined(fresh)

    def _watch_again(self, handle: h.ReplicaHandle) -> None:
        """Let the node's agent watch a departure, up to a deadline. Ray restarts the agent of a live node."""
        handle.unwatched = False
        late = time.monotonic() > handle.unload_started + 2 * h.DEPARTURE_TIMEOUT_S
        if late or not h.begin_departure(handle, self._calls, self._cluster.agent(handle.start.slot.node)):
            self._departed(handle, None)

    def _report_abandoned(self) -> None:
        for entry in self._scheduler.abandoned[self._num_reported :]:
            self._observer.abandoned(entry.model, entry.num_cells, entry.reason)
        if len(self._scheduler.abandoned) > self._num_reported:
            self._claims.gave_up(self._scheduler.open_shards())
        self._num_reported = len(self._scheduler.abandoned)

    def _end_all(self) -> None:
        """End the remaining replicas after an error or an interruption, and keep their telemetry."""
        for handle in self._replicas.values():
            ray_calls.call_at_end(ray.kill, handle.actor)
            if handle.telemetry.end == "running":
                handle.telemetry.end, handle.telemetry.reason = "lost", "the run was interrupted"
            self._run.write_telemetry(handle.telemetry)
        self._replicas.clear()

    def _notice_once(self, handle: h.ReplicaHandle, notice: str | None) -> None:
        """Pass on what a replica says of its checkpoint, once for each node and model."""
        place = (handle.start.slot.node, handle.start.model)
        if notice is not None and place not in self._noticed:
            self._noticed.add(place)
            node = self._scheduler.fleet.nodes.get(handle.start.slot.node)
            self._observer.notice(f"{node.name if node else handle.name}: {notice}")

    def _tell(self, handle: h.ReplicaHandle, state: str, detail: str) -> None:
        self._observer.replica(handle.name, handle.start.model, state, detail)
