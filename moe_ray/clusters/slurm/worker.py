"""The agent of a node that joins the head's cluster."""

import os
import time
from pathlib import Path

from moe_ray.clusters.slurm.hosts import Host
from moe_ray.clusters.slurm.life import WATCH_S, HeadRecord, NodeFailedError, scheduler_id, state_path, wait_for
from moe_ray.clusters.slurm.network import reaches, route_source
from moe_ray.clusters.slurm.node import Agent
from moe_ray.clusters.slurm.requeue import EXIT_NODES_FAILED, Budgets, decide
from moe_ray.clusters.slurm.saved import saved_work
from moe_ray.clusters.submission import EXIT_TRY_AGAIN

# A worker that gets SIGTERM keeps its node while the head saves; SLURM kills after KillWait, by default 30 s.
SAVE_PATIENCE_S = 25.0
# The head writes a sign of life every 10 s.
HEAD_SILENT_S = 45.0


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
            if is_silent(agent):
                replace_head(agent)
            else:
                agent.say("this node's Ray has ended; the run goes on without it")
            return EXIT_NODES_FAILED
    return 0


def is_silent(agent: Agent) -> bool:
    """Wait for the next sign of life of the head; say whether none came in time."""
    path = state_path(agent.life.run, agent.life.job_id)
    before = _written_at(path)
    return not wait_for(lambda: agent.is_over or _written_at(path) != before, HEAD_SILENT_S)


def replace_head(agent: Agent) -> None:
    """Have SLURM start the job again. With `--no-kill` it keeps a job whose first node, and its script, are lost.

    Every node that is left does so; SLURM refuses all but the first.
    """
    life, options = agent.life, agent.options
    budgets = Budgets(options.max_failures, options.max_interruptions)
    saved = saved_work(life.run, options.command)
    decision = decide(life.earlier(), "interrupted", EXIT_TRY_AGAIN, saved, budgets)
    agent.say(f"the first node of the job is lost: {decision.reason}")
    verb = ["scontrol", "requeue"] if decision.requeue and not options.chain else ["scancel"]
    Host().run([*verb, scheduler_id(os.environ)])


def _written_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


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
