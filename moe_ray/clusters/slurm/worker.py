"""The agent of a node that joins the head's cluster."""

import time

from moe_ray.clusters.slurm.life import WATCH_S, HeadRecord, NodeFailedError, wait_for
from moe_ray.clusters.slurm.network import reaches, route_source
from moe_ray.clusters.slurm.node import Agent
from moe_ray.clusters.slurm.requeue import EXIT_NODES_FAILED

# A worker that gets SIGTERM keeps its node while the head saves; SLURM kills after KillWait, by default 30 s.
SAVE_PATIENCE_S = 25.0


def join(agent: Agent) -> int:
    """Be a node of the cluster until the command has ended. Returns the agent's exit code."""
    try:
        _join_cluster(agent)
    except NodeFailedError as error:
        agent.fail(error)
        return EXIT_NODES_FAILED
    patience_until: float | None = None
    while "ended" not in agent.life.names():
        time.sleep(WATCH_S)
        if agent.signals.must_end and patience_until is None:
            patience_until = time.monotonic() + SAVE_PATIENCE_S
        if patience_until is not None and time.monotonic() > patience_until:
            break
        if not agent.signals.must_end and not agent.has_ray:
            agent.say("this node's Ray has ended; the run goes on without it")
            return EXIT_NODES_FAILED
    return 0


def _join_cluster(agent: Agent) -> None:
    limits = agent.prepare()
    timeout_s = agent.options.ready_timeout_s
    if not wait_for(lambda: agent.is_over or "head.json" in agent.life.names(), timeout_s):
        raise NodeFailedError(
            f"the first node wrote no head.json within {timeout_s:g} s\n"
            f"  remedy: check that all nodes see {agent.life.folder}"
        )
    head = agent.life.read("head.json", HeadRecord)
    if agent.is_over or head is None:
        return
    if not reaches(head.host, head.port):
        raise NodeFailedError(
            f"cannot connect to the head at {head.address}\n"
            "  remedy: set `interface` in the site file to a network that connects the nodes"
        )
    agent.start_ray(route_source(head.host) or head.host, limits, head.address)
    agent.await_ray()
    if not agent.signals.must_end:
        agent.say_ready()
