"""What `auto` means: the only cluster of this machine if it is one's own, and never a guess."""

import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from moe_ray.errors import ConfigError
from moe_ray.execution import discovery
from moe_ray.execution.discovery import wanted_address

MINE = os.geteuid()


@dataclass
class Process:
    """A process as psutil shows it."""

    command: list[str]
    uid: int = MINE
    user: str = "me"
    state: str = psutil.STATUS_SLEEPING
    program: str = "raylet"
    hidden: bool = False

    def name(self) -> str:
        return self.program

    def status(self) -> str:
        return self.state

    def cmdline(self) -> list[str]:
        if self.hidden:
            raise psutil.AccessDenied
        return self.command

    def username(self) -> str:
        return self.user

    def uids(self) -> Any:
        return SimpleNamespace(effective=self.uid)


def raylet(address: str, **more: Any) -> Process:
    return Process(["/lib/ray/raylet", "--num_prestart=0", f"--gcs-address={address}", "--session=x"], **more)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """The processes of the machine."""
    processes: list[Process] = [Process(["sleep", "--gcs-address=10.0.0.9:1"], program="sleep")]
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(processes))
    return processes


def test_without_an_address_nothing_is_joined_whatever_runs_here(machine: list[Process]) -> None:
    machine += [raylet("10.0.0.1:6379"), raylet("10.0.0.2:6379", uid=MINE + 1, user="other")]
    assert wanted_address(None, {}) is None
    assert wanted_address(None, {"RAY_ADDRESS": ""}) is None
    assert wanted_address(None, {"RAY_ADDRESS": "local"}) is None
    assert wanted_address("local", {"RAY_ADDRESS": "10.0.0.1:6379"}) is None


def test_a_named_address_is_taken_and_the_experiments_comes_first(machine: list[Process]) -> None:
    machine += [raylet("10.0.0.1:6379"), raylet("10.0.0.2:6379")]
    environment = {"RAY_ADDRESS": "10.0.0.3:6379", "SLURM_JOB_ID": "7"}
    assert wanted_address("10.0.0.1:6379", environment) == "10.0.0.1:6379"
    assert wanted_address(None, environment) == "10.0.0.3:6379"
    assert wanted_address("auto", environment) == "10.0.0.3:6379"


@pytest.mark.parametrize("environment", [{}, {"RAY_ADDRESS": "auto"}, {"RAY_ADDRESS": ""}])
def test_auto_is_the_only_cluster_of_this_machine(machine: list[Process], environment: dict[str, str]) -> None:
    head = Process(["gcs_server", "--gcs_server_port=6379", "--node-ip-address=10.0.0.1"], program="gcs_server")
    machine += [head, raylet("10.0.0.1:6379"), raylet("10.0.0.1:6379"), raylet("10.0.0.2:1", state="zombie")]
    assert wanted_address("auto", environment) == "10.0.0.1:6379"


def refusal(environment: dict[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        wanted_address("auto", environment)
    assert caught.value.remedy
    return caught.value


def test_auto_is_refused_where_several_clusters_are_with_their_addresses(machine: list[Process]) -> None:
    machine += [raylet("10.0.0.1:6379"), raylet("10.0.0.2:6379", uid=MINE + 1, user="other")]
    assert "several Ray clusters: 10.0.0.1:6379, 10.0.0.2:6379 (of user other)" in str(refusal({}))


def test_auto_is_refused_where_the_cluster_is_another_users(machine: list[Process]) -> None:
    machine += [raylet("10.0.0.2:6379", uid=MINE + 1, user="other")]
    assert "another user's: 10.0.0.2:6379 (of user other)" in str(refusal({}))


def test_auto_is_refused_where_another_user_joined_a_node_to_a_cluster(machine: list[Process]) -> None:
    machine += [raylet("10.0.0.2:6379"), raylet("10.0.0.2:6379", uid=MINE + 1, user="other")]
    assert "another user's" in str(refusal({}))


def test_auto_is_refused_inside_slurm_also_where_one_cluster_is_found(machine: list[Process]) -> None:
    machine += [raylet("10.0.0.1:6379")]
    error = refusal({"SLURM_JOB_ID": "7", "RAY_ADDRESS": "auto"})
    assert "found: 10.0.0.1:6379" in str(error)
    assert "inside SLURM" in (error.remedy or "")


def test_auto_without_a_cluster_is_refused_and_hidden_processes_are_passed_over(machine: list[Process]) -> None:
    machine += [raylet("10.0.0.1:6379", hidden=True), Process(["raylet"])]
    assert "auto finds no Ray cluster" in str(refusal({}))


@pytest.mark.usefixtures("local_ray")
def test_a_real_cluster_is_found_by_its_processes() -> None:
    import ray

    found = set(discovery.found_clusters())
    assert ray.get_runtime_context().gcs_address in {cluster.address for cluster in found if cluster.is_own}
