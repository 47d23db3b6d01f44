"""Replicas in slots: how one is started on its node, and how it leaves with its memory."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from moe_ray.engines.base import BatchLimits
from moe_ray.errors import CapacityError
from moe_ray.execution.cluster import actor_class
from moe_ray.execution.node_agent import NodeAgent
from moe_ray.execution.replica import ReplicaPlace, ReplicaSpec
from moe_ray.planning.fleet import Slot
from moe_ray.planning.memory import GIB
from moe_ray.serving.replica import replica_class
from moe_ray.serving.system import ServedSystem, SharedSlot

DEPARTURE_TIMEOUT_S = 60.0
LEAVE_TIMEOUT_S = 50.0
AGENT_CALLS = 16


class Replicas:
    """Starts and ends the replicas of a system.

    `environments` brings secrets to the models' processes, by model; they are never written.
    """

    def __init__(self, system: ServedSystem, environments: Mapping[str, Mapping[str, str]]) -> None:
        self._system = system
        self._environments = environments
        self._agents: dict[str, Any] = {}

    def open(self, shared: SharedSlot, model: str, name: str) -> Any:
        """Ask Ray for the actor of `model` on the slot's node and GPUs. The actor is not there yet.

        A slot whose node is gone moves to another node. Raises `CapacityError` where none has room for it.
        """
        runtime, slot = self._system.runtime, shared.slot
        if shared.uses_gpu:
            _require_gpus(slot)
        spec = ReplicaSpec(
            replica=name,
            model_name=model,
            model=self._system.by_name[model].model,
            decoding=self._system.decoding,
            limits=BatchLimits(max_rows=runtime.batch_size, cache_memory_bytes=int(runtime.batch_memory_gib * GIB)),
            cpu_threads=runtime.cpu_threads,
            uses_gpu=shared.uses_gpu,
            environment=self._environments.get(model, {}),
        )
        options = {
            "scheduling_strategy": NodeAffinitySchedulingStrategy(slot.node, soft=True),
            "num_gpus": slot.num_gpus,
            "num_cpus": 0,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        return replica_class(self._system.serving.max_running).options(**options).remote(spec)

    async def end(self, shared: SharedSlot, replica: Any, place: ReplicaPlace | None) -> None:
        """End the replica's process, and wait until it is gone and its GPUs' memory is back."""
        with contextlib.suppress(RayError, TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await replica.leave.remote()
        ray.kill(replica)
        if place is None:
            return
        with contextlib.suppress(RayError, TimeoutError):
            agent = self._agent(place.node)
            bytes_before = place.gpu_bytes if shared.slot.share == 1 else None
            async with asyncio.timeout(2 * DEPARTURE_TIMEOUT_S):
                await agent.await_departure.remote(place.pid, place.gpu_uuids, bytes_before, DEPARTURE_TIMEOUT_S)

    def _agent(self, node: str) -> Any:
        if node not in self._agents:
            affinity = NodeAffinitySchedulingStrategy(node, soft=False)
            options = actor_class(NodeAgent).options(
                num_cpus=0, max_concurrency=AGENT_CALLS, scheduling_strategy=affinity
            )
            self._agents[node] = options.remote()
        return self._agents[node]


def _require_gpus(slot: Slot) -> None:
    """Raise `CapacityError` if the slot's node is gone and the others' free GPUs are too few: Ray would wait."""
    cluster: Any = ray
    if any(node["NodeID"] == slot.node and node["Alive"] for node in cluster.nodes()):
        return
    num_free = cluster.available_resources().get("GPU", 0.0)
    if num_free < slot.num_gpus:
        raise CapacityError(
            f"its node is gone, and of {slot.num_gpus:g} GPU(s) for it {num_free:g} are free on other nodes",
            remedy="bring the node back or add another",
        )
