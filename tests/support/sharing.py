"""A process that shares a run, without Ray: `python -m tests.support.sharing RUN HOST HOW [SECONDS]`.

It computes shards by sleeping. HOST is the name that it believes to have; HOW is `flock`, or `lease` for a file system
that cannot lock. It prints a line for each shard that it begins and for each that it commits.
"""

import errno
import fcntl
import os
import socket
import sys
import time
from pathlib import Path

from moe_ray.execution import claims
from moe_ray.execution.claims import SharedClaims
from moe_ray.planning.cells import Cell, Shard, make_shards, missing_shards
from moe_ray.store import members, work_leases
from moe_ray.store.answers import Answer
from moe_ray.store.committed import CommittedKeys
from moe_ray.store.lock import shared
from moe_ray.store.run_directory import RunDirectory
from tests.planning.cells import make_cell

NUM_SHARDS, SHARD_SIZE = 12, 3
RENEW_S, EXPIRY_S = 0.05, 1.0


def all_shards() -> list[Shard]:
    """The shards of the run."""
    return make_shards([make_cell("m", number) for number in range(NUM_SHARDS * SHARD_SIZE)], SHARD_SIZE)


def answer_of(cell: Cell) -> Answer:
    """The answer that every process computes for a cell."""
    return Answer(
        key=cell.key, kind=cell.kind, model=cell.model, domain=cell.domain, example_id=cell.example_id,
        sample_index=0, messages="[]", settings="{}", text=f"text of {cell.key}", token_ids=[1], finish_reason="stop",
        num_prompt_tokens=1, num_completion_tokens=1, error=None, batch_rows=1, time_to_first_token_s=0.1, total_s=0.2,
        replica="r", shard="s", finished_at=1.0,
    )  # fmt: skip


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def work(run: RunDirectory, seconds: float) -> None:
    """Compute what no other live process does, until everything is done."""
    whole, answers = all_shards(), CommittedKeys(run)
    pieces = {cell.key: shard.id for shard in whole for cell in shard.cells}
    with shared(run, say) as leases:
        queue = missing_shards(whole, answers.refresh())
        mine = SharedClaims(leases, answers, queue, pieces)
        while queue or not mine.finished:
            news = mine.look(is_idle=not queue)
            queue = [shard for shard in queue if shard.id not in news.withdrawn] + list(news.freed)
            if not queue:
                time.sleep(0.02)
                continue
            shard = queue.pop(0)
            if mine.take(shard):
                say(f"started {shard.id}")
                time.sleep(seconds)
                run.write_shard([answer_of(cell) for cell in shard.cells])
                mine.committed(shard)
                say(f"committed {shard.id}")


def main() -> None:
    path, host, how, *seconds = sys.argv[1:]
    if how == "lease":
        fcntl.flock = _no_flock
    socket.gethostname = lambda: host
    claims.LOOK_S, members.RENEW_S, members.EXPIRY_S, members.POLL_S = 0.05, RENEW_S, EXPIRY_S, 0.02
    work_leases.POLL_S = 0.02
    work(RunDirectory(Path(path)), float(seconds[0]) if seconds else 0.05)


def _no_flock(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


if __name__ == "__main__":
    main()
