"""Commands that share a run, each with a Ray of its own: one is killed, and the others finish with the same bytes."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from moe_ray.config.load import LoadedExperiment
from moe_ray.store.run_directory import RunDirectory
from tests.execution.commands import command, family_of, survivors
from tests.execution.experiments import content, scripted, write_experiment
from tests.support.slurm_lab import wait_until

pytestmark = pytest.mark.slow

NUM_EXAMPLES = 48
TIMEOUT_S = 400


def experiment_in(folder: Path, seconds_per_batch: float) -> LoadedExperiment:
    models = {name: scripted(seconds_per_batch=seconds_per_batch) for name in ("a", "b")}
    return write_experiment(folder, models, num_examples=NUM_EXAMPLES, runtime={"probe_examples": 1})


def run_of(experiment: LoadedExperiment) -> RunDirectory:
    return RunDirectory(experiment.config.output.results_dir / "scripted")


@contextmanager
def evaluating(experiment: LoadedExperiment, *options: str) -> Iterator["Popen[str]"]:
    """A command with its own Ray."""
    with command("evaluate", str(experiment.path), *options, environment={"HOME": os.environ["HOME"]}) as process:
        yield process


def finish(process: "Popen[str]") -> str:
    out, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, out + errors
    return out


def num_sessions(run: RunDirectory) -> int:
    """The number of commands that have begun their session."""
    return len(list((run.path / "sessions").glob("*.json")))


def num_sessions_with_answers(run: RunDirectory) -> int:
    if not (run.path / "answers").is_dir():
        return 0
    replicas = run.answers_table(["replica"]).column("replica").to_pylist()
    return len({replica.rpartition("-")[2] for replica in replicas})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The answers of one command that has the run alone."""
    experiment = experiment_in(tmp_path_factory.mktemp("alone"), 0.0)
    with evaluating(experiment) as process:
        finish(process)
    return content(run_of(experiment))


def test_of_three_commands_one_is_killed_and_the_others_finish(tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    experiment = experiment_in(tmp_path, 2.0)
    run = run_of(experiment)
    with ExitStack() as stack:
        doomed = stack.enter_context(evaluating(experiment, "--shared"))
        others = [stack.enter_context(evaluating(experiment, "--shared")) for _ in range(2)]
        # The third may still start Ray; it finds whatever is left.
        wait_until(lambda: num_sessions_with_answers(run) >= 2 and num_sessions(run) == 3, "two answer", TIMEOUT_S)
        family = family_of(doomed)
        doomed.send_signal(signal.SIGKILL)
        for process in family:
            process.kill()
        doomed.communicate(timeout=TIMEOUT_S)
        printed = [finish(process) for process in others]
    assert survivors(family) == []
    assert content(run) == expected
    manifest = run.manifest()
    assert Counter(session.status for session in manifest.sessions) == {"complete": 2, "running": 1}
    assert {session.cells_done_after for session in manifest.sessions} == {None, 2 * NUM_EXAMPLES}
    assert sum("Writing the report" in text for text in printed) == 1
    assert run.report_path.is_file()
    # What the killed command had in hand is computed again, and nothing else is.
    assert sum(record.num_answers for record in run.telemetry()) <= 2 * NUM_EXAMPLES
