"""Joining a cluster: what cannot be joined is refused at once, in words."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from moe_ray.config.schema import RuntimeConfig
from moe_ray.errors import UserError
from moe_ray.execution.cluster import connect, fleet_of


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make `connect` believe that this process has no connection, which another test may have made."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before, "ray.init left its own handler"


@pytest.mark.usefixtures("unconnected")
@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.1:{closed}", "Connection refused"),
        ("nonsense", "not host:port"),
        ("http://127.0.0.1:8265", "is not the address of a cluster's head"),
        ("ray://127.0.0.1:10001", "is not the address of a cluster's head"),
    ],
)
def test_an_address_where_no_cluster_is_is_refused_at_once(address: str, problem: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = address.format(closed=unused.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(UserError, match=problem) as caught, connect(RuntimeConfig(address=address)):
            pass
    assert time.monotonic() - started < 5
    assert caught.value.where == "runtime.address or RAY_ADDRESS"
    assert caught.value.remedy


@pytest.mark.usefixtures("unconnected")
def test_the_environments_address_counts_where_the_experiment_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://elsewhere:10001")
    with pytest.raises(UserError, match="elsewhere"), connect(RuntimeConfig()):
        pass


@pytest.mark.usefixtures("unconnected")
def test_a_temporary_folder_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="Ray's sockets below it allow 43") as caught,
        connect(RuntimeConfig(temp_dir=tmp_path / ("deep" * 9))),
    ):
        pass
    assert caught.value.where == "runtime.temp_dir"


@pytest.mark.usefixtures("local_ray")
def test_a_borrowed_connection_is_kept_and_its_agents_are_ended() -> None:
    with connect(RuntimeConfig(cpu_threads=2)) as cluster:
        fleet = fleet_of(cluster)
        (node,) = fleet.nodes.values()
        assert (node.num_cpus, node.cpu_slots, node.gpu_bytes) == (4, 2, ())
        assert cluster.alive() == {node.id}
        assert cluster.hardware[node.id].memory_bytes > 1 << 30
        assert cluster.discover(fleet.nodes, patience_s=0.0) == []
        agent = cluster.agent(node.id)
    assert ray.is_initialized()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(agent.hardware.remote(), timeout=30)
