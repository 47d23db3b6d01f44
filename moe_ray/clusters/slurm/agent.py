"""The agent of one node: `python -m moe_ray.clusters.slurm.agent RUN [options] -- COMMAND`, started by `srun`.

All agents of a job meet in the run directory. The first one starts the head of a Ray cluster, the others join it; then
the first one runs `moe-ray COMMAND` on that cluster, and the others wait for its end. However an agent ends, it ends
the processes that it started, and no others.
"""

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path

from moe_ray.clusters.slurm.head import lead
from moe_ray.clusters.slurm.life import Life
from moe_ray.clusters.slurm.node import Agent, AgentOptions
from moe_ray.clusters.slurm.node_copies import CopyOptions
from moe_ray.clusters.slurm.ray_node import adopt_orphans
from moe_ray.clusters.slurm.signals import Signals
from moe_ray.clusters.slurm.worker import join

EXIT_USAGE = 2
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES})


def parse_options(arguments: Sequence[str]) -> AgentOptions:
    """Read the command line of an agent."""
    parser = argparse.ArgumentParser(prog="moe_ray.clusters.slurm.agent", description="The agent of one node.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--interface")
    parser.add_argument("--temp-dir", type=Path, default=Path("/tmp"))
    parser.add_argument("--ready-timeout", type=float, default=120.0, dest="ready_timeout_s")
    parser.add_argument("--max-failures", type=int, default=0)
    parser.add_argument("--max-interruptions", type=int, default=100)
    parser.add_argument("--chain", action="store_true", help="further jobs are queued; requeue none")
    parser.add_argument("--shares", action="store_true", help="other jobs of the array work on the run too")
    parser.add_argument("--staging", help="folder on the node's own disk for copies of checkpoints")
    parser.add_argument("--staging-keep", action="store_true", help="keep the copies for later jobs")
    parser.add_argument("--staging-max-gib", type=float)
    parser.add_argument("command", nargs="+")
    found = vars(parser.parse_args(arguments))
    copies = CopyOptions(found.pop("staging"), found.pop("staging_keep"), found.pop("staging_max_gib"))
    return AgentOptions(**{**found, "command": tuple(found["command"]), "copies": copies})


def main() -> int:
    """Run the agent; returns its exit code."""
    options = parse_options(sys.argv[1:])
    adopt_orphans()
    agent = Agent(options, Life.of_environment(options.run, shares=options.shares), Signals.recorded())
    try:
        if agent.is_head:
            return lead(agent)
        with agent:
            return join(agent)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        agent.say(
            f"error: {error.filename or options.run}: cannot write: {error.strerror}\n"
            "  remedy: free disk space, raise the quota or grant write permission, and submit the run again"
        )
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
