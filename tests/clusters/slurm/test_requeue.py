"""When a job is requeued: budgets, progress, and ends that are answers."""

import pytest

from moe_ray.clusters.slurm.life import LifeEnd, LifeRecord
from moe_ray.clusters.slurm.requeue import Budgets, decide
from moe_ray.clusters.slurm.saved import SavedWork
from moe_ray.clusters.submission import EXIT_TRY_AGAIN


def lives(*ends: tuple[LifeEnd | None, int | None], before: int = 0) -> list[LifeRecord]:
    return [
        LifeRecord(job_id="7", restart=number, started_at=0.0, saved_before=before, end=end, saved_after=count)
        for number, (end, count) in enumerate(ends)
    ]


def answers(number: int) -> SavedWork:
    return SavedWork(number, f"{number} answers")


def test_an_interrupted_life_is_followed_by_another() -> None:
    assert decide([], "interrupted", EXIT_TRY_AGAIN, answers(5), Budgets()).requeue
    assert decide(lives(("interrupted", 5)), "interrupted", EXIT_TRY_AGAIN, answers(6), Budgets()).requeue


@pytest.mark.parametrize("code", [0, 2])
def test_an_end_that_is_an_answer_is_final(code: int) -> None:
    end: LifeEnd = "finished" if code == 0 else "failed"
    assert not decide([], end, code, answers(5), Budgets(failures=9)).requeue


def test_a_job_that_makes_no_progress_stops() -> None:
    decision = decide(lives(("interrupted", 5)), "interrupted", EXIT_TRY_AGAIN, answers(5), Budgets())
    assert not decision.requeue
    assert "nothing was added since the last life (5 answers)" in decision.reason


def test_answers_of_a_life_that_was_cut_off_count_as_progress() -> None:
    assert decide(lives((None, None), before=3), "interrupted", EXIT_TRY_AGAIN, answers(4), Budgets()).requeue
    assert not decide(lives((None, None), before=4), "interrupted", EXIT_TRY_AGAIN, answers(4), Budgets()).requeue


def test_failures_and_interruptions_have_budgets_of_their_own() -> None:
    interrupted = lives(*[("interrupted", number) for number in range(3)])
    assert not decide([], "failed", 1, answers(5), Budgets()).requeue
    assert decide(interrupted, "failed", 1, answers(5), Budgets(failures=1)).requeue
    assert not decide(lives(("failed", 3)), "failed", 1, answers(5), Budgets(failures=1)).requeue
    assert decide(interrupted, "interrupted", EXIT_TRY_AGAIN, answers(9), Budgets(interruptions=4)).requeue
    assert not decide(interrupted, "interrupted", EXIT_TRY_AGAIN, answers(9), Budgets(interruptions=3)).requeue
    assert decide(lives(("failed", 3)), "interrupted", EXIT_TRY_AGAIN, answers(9), Budgets(interruptions=1)).requeue
