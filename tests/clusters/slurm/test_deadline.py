"""The end of a job's time, by a clock of the test."""

import pytest

from moe_ray.clusters.slurm.deadline import Deadline, seconds_left, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("1:30", 90),
        ("01:00:00", 3600),
        ("2-03", 183_600),
        ("1-02:03", 93_780),
        ("1-02:03:04", 93_784),
        ("0:07\n", 7),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
        ("1:2:3:4", None),
    ],
)
def test_durations_are_read_as_slurm_writes_them(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


def test_the_time_left_counts_before_the_moment_of_the_end() -> None:
    """A moment would be wrong on a node whose clock is wrong; SLURM 22.05 does not set both moments."""
    moments = {"SLURM_JOB_START_TIME": "1000", "SLURM_JOB_END_TIME": "4600"}
    assert seconds_left({"MOE_RAY_TIME_LEFT": "10:00", **moments}) == 600
    assert seconds_left({"MOE_RAY_TIME_LEFT": "", **moments}) == 3600
    assert seconds_left({"SLURM_JOB_END_TIME": "4600"}) is None
    assert seconds_left({}) is None


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_long_job_is_interrupted_90_s_before_its_end() -> None:
    clock = Clock()
    deadline = Deadline(3600, lambda: None, clock)
    clock.now_s += 3509
    assert not deadline.is_near()
    clock.now_s += 2
    assert deadline.is_near()


def test_a_short_job_keeps_three_quarters_of_its_time() -> None:
    clock = Clock()
    deadline = Deadline(60, lambda: None, clock)
    clock.now_s += 44
    assert not deadline.is_near()
    clock.now_s += 2
    assert deadline.is_near()


def test_a_limit_that_an_administrator_changes_is_noticed() -> None:
    clock = Clock()
    answers = iter([7200.0, None, 20.0])
    deadline = Deadline(120, lambda: next(answers), clock)
    clock.now_s += 100
    assert not deadline.is_near()
    clock.now_s += 60
    assert not deadline.is_near()
    clock.now_s += 60
    assert deadline.is_near()


def test_without_a_limit_there_is_no_deadline() -> None:
    clock = Clock()
    deadline = Deadline(None, lambda: None, clock)
    clock.now_s += 10**6
    assert not deadline.is_near()
    assert not deadline.explains_signal()


def test_a_warning_near_the_end_is_the_deadline_itself() -> None:
    """SLURM sends its warning up to a minute early; the clock says when to stop."""
    clock = Clock()
    deadline = Deadline(3600, lambda: None, clock)
    assert not deadline.explains_signal()
    clock.now_s += 3450
    assert deadline.explains_signal()
    assert not deadline.is_near()
