"""Whether a job that ended is requeued: two budgets, and progress."""

from collections.abc import Sequence
from typing import NamedTuple

from moe_ray.clusters.slurm.life import LifeEnd, LifeRecord
from moe_ray.clusters.slurm.saved import SavedWork
from moe_ray.formatting import plural

EXIT_NODES_FAILED = 3
# Exit codes that are answers: another attempt would end in the same way.
FINAL_EXIT_CODES = frozenset({0, 2})


class Decision(NamedTuple):
    """Whether to requeue, and the sentence for the log."""

    requeue: bool
    reason: str


class Budgets(NamedTuple):
    """How often a job is requeued after a failure, and after an interruption."""

    failures: int = 0
    interruptions: int = 100


def decide(earlier: Sequence[LifeRecord], end: LifeEnd, exit_code: int, saved: SavedWork, budgets: Budgets) -> Decision:
    """Decide after a life that ended as `end` with `saved` in the run directory.

    A life without a recorded end was cut off (a lost node, preemption) and counts as an interruption. Another life must
    promise more than the last one saved.
    """
    if end == "finished" or exit_code in FINAL_EXIT_CODES:
        return Decision(False, "the command has ended; another life would not change its result")
    failed = sum(life.end == "failed" for life in earlier)
    interrupted = sum(life.end in ("interrupted", None) for life in earlier)
    if end == "failed" and failed >= budgets.failures:
        return Decision(False, f"{plural(failed + 1, 'failure')}; the limit of --max-failures is {budgets.failures}")
    if end == "interrupted" and interrupted >= budgets.interruptions:
        return Decision(
            False, f"{interrupted + 1} interruptions; the limit of --max-interruptions is {budgets.interruptions}"
        )
    if earlier and saved.amount <= _saved_after(earlier[-1]):
        return Decision(
            False, f"nothing was added since the last life ({saved.words}): request more time or other nodes"
        )
    return Decision(True, f"saved: {saved.words}; the next life resumes")


def _saved_after(life: LifeRecord) -> int:
    return life.saved_before if life.saved_after is None else life.saved_after
