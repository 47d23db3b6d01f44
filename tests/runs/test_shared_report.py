"""The end of a shared run: one process grades and writes the report, and the others find it."""

import threading
from pathlib import Path
from typing import Any

import pytest

from moe_ray.runs import evaluate as pipeline
from moe_ray.store import work_leases
from tests.execution.experiments import Recorder, content, scripted, write_experiment
from tests.support.inline import Inline, inline

__all__ = ["inline"]


class Stages(Recorder):
    """Remembers the stages, and waits at one of them for others."""

    def __init__(self, name: str, barrier: threading.Barrier) -> None:
        super().__init__()
        self.stages: list[str] = []
        self._name = name
        self._barrier = barrier

    def stage(self, text: str) -> None:
        self.stages.append(text)
        if text.startswith("Waiting for another process, which does the report"):
            self._barrier.wait(60)
        if text == self._name:
            self._barrier.wait(60)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_leases, "POLL_S", 0.01)


def test_of_two_that_end_at_the_same_moment_one_writes_the_report(inline: Inline, tmp_path: Path) -> None:
    """The first one is in the middle of its grading when the second one has nothing left to compute."""
    experiment = write_experiment(tmp_path, {"m": scripted()})
    barrier = threading.Barrier(2)
    observers = [Stages("Grading answers", barrier) for _ in range(2)]
    outcomes: list[pipeline.Outcome] = []

    def evaluate(observer: Any) -> None:
        outcomes.append(pipeline.evaluate(experiment, observer, shared=True))

    threads = [threading.Thread(target=evaluate, args=(observer,)) for observer in observers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    first, second = outcomes
    stages = [stage for observer in observers for stage in observer.stages]
    assert [stages.count(name) for name in ("Grading answers", "Writing the report")] == [1, 1]
    assert first.summary == second.summary
    assert first.summary.run.complete
    assert len(content(first.run)) == 8
    sessions = first.run.manifest().sessions
    assert [session.status for session in sessions] == ["complete", "complete"]
    assert {session.session for session in first.summary.run.sessions} == {session.session for session in sessions}


def test_a_report_that_was_not_finished_is_written_by_the_next(inline: Inline, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, {"m": scripted()})

    class Interrupted(Recorder):
        def stage(self, text: str) -> None:
            if text == "Writing the report":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.evaluate(experiment, Interrupted(), shared=True)
    outcome = pipeline.evaluate(experiment, Recorder(), shared=True)
    assert outcome.summary.run.complete
    assert outcome.run.report_path.is_file()


def test_answers_that_come_later_are_graded_and_reported_again(inline: Inline, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, {"good": scripted(), "bad": scripted()})
    inline.broken.add("bad")
    first = pipeline.evaluate(experiment, Recorder(), shared=True)
    assert (first.num_missing, first.summary.run.complete) == (8, False)
    inline.broken.clear()
    second = pipeline.evaluate(experiment, Recorder(), shared=True)
    assert (second.num_missing, second.summary.run.complete) == (0, True)
    assert second.run.manifest().given_up == []
