"""Examine the nodes of a Ray cluster, with one task on each."""

import time
from collections import Counter
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from moe_ray.clusters.doctor.compare import NodeAnswers
from moe_ray.clusters.doctor.report import NodeReport
from moe_ray.clusters.doctor.request import DoctorRequest, examine_here
from moe_ray.config.schema import RuntimeConfig
from moe_ray.execution import ray_calls
from moe_ray.execution.cluster import connect, living_nodes

# Starting a worker on a node that is busy or reads Python from a shared disk.
START_S = 60.0
NODE_ID_CHARACTERS = 6


def ask_by_ray(request: DoctorRequest, address: str) -> NodeAnswers:
    """Ask every living node of the cluster at `address`. Raises `UserError` when it cannot be joined."""
    with connect(RuntimeConfig(address=address)):
        request = request.model_copy(update={"cluster": ray.get_runtime_context().gcs_address})
        asked_at_s = time.time()
        names = _names(living_nodes())
        task: Any = ray.remote(_examine_there)
        answers = {
            ray_calls.call(_on(task, node).remote, request.model_dump_json(), name): name
            for node, name in names.items()
        }
        done, _ = ray_calls.call_within(
            START_S + 2 * request.limit_s,
            ray.wait,
            list(answers),
            num_returns=len(answers),
            timeout=START_S + request.limit_s,
        )
        reports, reason = list[NodeReport](), ""
        for answer in done:
            try:
                reports.append(NodeReport.model_validate_json(ray_calls.call(ray.get, answer)))
            except RayError as error:
                reason = ray_calls.reason_of(error)
        answering = {report.node for report in reports}
        return NodeAnswers(
            reports=reports,
            silent=[name for name in names.values() if name not in answering],
            reason=reason or "its task did not end in time",
            asked_at_s=asked_at_s,
            answered_at_s=time.time(),
        )


def _examine_there(request: str, name: str) -> str:
    return examine_here(DoctorRequest.model_validate_json(request), name).model_dump_json()


def _on(task: Any, node: str) -> Any:
    affinity = NodeAffinitySchedulingStrategy(node, soft=False)
    return task.options(num_cpus=0, max_retries=0, scheduling_strategy=affinity)


def _names(nodes: list[dict[str, Any]]) -> dict[str, str]:
    """Return the nodes' names by id: host names, with the beginning of the id where raylets share a machine."""
    hosts = Counter(str(node["NodeManagerHostname"]) for node in nodes)
    return {
        node["NodeID"]: str(host) if hosts[host] == 1 else f"{host}-{node['NodeID'][:NODE_ID_CHARACTERS]}"
        for node in nodes
        for host in [node["NodeManagerHostname"]]
    }
