"""Where a replica may be opened when its slot's node is gone."""

from typing import Any

import pytest
import ray

from moe_ray.errors import CapacityError
from moe_ray.planning.fleet import Slot
from moe_ray.serving.replicas import _require_gpus

GONE, HERE = Slot(node="gone", gpu_indices=(0,), share=1.0), Slot(node="here", gpu_indices=(0,), share=1.0)
NODES = [{"NodeID": "here", "Alive": True}, {"NodeID": "gone", "Alive": False}]


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The free resources of a cluster that lost a node."""
    free: dict[str, float] = {}
    monkeypatch.setattr(ray, "nodes", lambda: NODES)
    monkeypatch.setattr(ray, "available_resources", lambda: free)
    return free


def test_a_slot_on_a_living_node_waits_for_its_own_gpus(cluster: dict[str, Any]) -> None:
    _require_gpus(HERE)


def test_a_slot_whose_node_is_gone_moves_to_free_gpus(cluster: dict[str, Any]) -> None:
    cluster["GPU"] = 1.0
    _require_gpus(GONE)


@pytest.mark.parametrize("free", [None, 0.5])
def test_a_slot_whose_node_is_gone_fails_at_once_where_no_gpu_is_free(
    cluster: dict[str, Any], free: float | None
) -> None:
    if free is not None:
        cluster["GPU"] = free
    with pytest.raises(CapacityError, match="its node is gone, and of 1 GPU"):
        _require_gpus(GONE)
