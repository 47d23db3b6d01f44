"""Ports and addresses of a node, on this machine's own network."""

import socket

import pytest

from moe_ray.clusters.slurm.life import NodeFailedError
from moe_ray.clusters.slurm.network import (
    FIRST_PORT,
    addresses,
    claim_ports,
    first_ephemeral_port,
    head_address,
    reaches,
)

HOST = "127.0.0.1"


def test_two_jobs_of_one_node_get_different_ports() -> None:
    first, second = claim_ports(HOST, 50, "same"), claim_ports(HOST, 50, "same")
    assert not set(first.ports) & set(second.ports)
    assert first.ports.last_worker < second.ports.gcs or second.ports.last_worker < first.ports.gcs
    for claim in (first, second):
        assert len(set(claim.ports)) == len(claim.ports)
        assert claim.ports.last_worker - claim.ports.first_worker >= 49
        assert claim.ports.gcs >= FIRST_PORT
        assert claim.ports.last_worker < first_ephemeral_port()
        claim.release()


def test_jobs_of_different_sizes_do_not_overlap() -> None:
    large, small = claim_ports(HOST, 1000, "job"), claim_ports(HOST, 10, "job")
    spans = [range(claim.ports.gcs, claim.ports.last_worker + 1) for claim in (large, small)]
    assert not set(spans[0]) & set(spans[1])
    large.release()
    small.release()


def test_released_ports_can_be_claimed_again() -> None:
    first = claim_ports(HOST, 50, "again")
    first.release()
    second = claim_ports(HOST, 50, "again")
    assert first.ports == second.ports
    second.release()


def test_ports_that_something_listens_on_are_passed_over() -> None:
    first = claim_ports(HOST, 50, "busy")
    first.release()
    with socket.socket() as server:
        server.bind((HOST, first.ports.metrics))
        server.listen()
        assert reaches(HOST, first.ports.metrics)
        second = claim_ports(HOST, 50, "busy")
        assert first.ports.metrics not in range(second.ports.gcs, second.ports.last_worker + 1)
        second.release()


def test_more_ports_than_there_are_is_an_error() -> None:
    with pytest.raises(NodeFailedError, match="free ports"):
        claim_ports(HOST, 1_000_000, "huge")


def test_an_interface_that_is_missing_is_named_with_those_that_exist() -> None:
    with pytest.raises(NodeFailedError, match="'ib99' has no IPv4 address") as raised:
        addresses("ib99")
    assert "lo" in str(raised.value)
    assert addresses("lo")[0] == HOST


def test_the_loopback_is_never_the_address_for_other_nodes() -> None:
    assert HOST not in addresses(None)


def test_the_head_takes_the_address_that_routes_to_its_peers() -> None:
    own = addresses(None)
    if not own:
        pytest.skip("this machine has no network")
    assert head_address(own, own) in own
    assert head_address(["192.0.2.1"], ["no-such-host.invalid"]) == "192.0.2.1"
    assert head_address([], []) == HOST
