"""A run that several processes may share, computed by one and by another after it: answers, manifest, report."""

from pathlib import Path

import pytest

from moe_ray.config.load import load_experiment
from moe_ray.errors import RunDirectoryError
from moe_ray.runs import evaluate as pipeline
from moe_ray.store import lock
from moe_ray.store.lock import exclusive, shared
from moe_ray.store.run_directory import RunDirectory
from tests.execution.experiments import Recorder, content, scripted, write_experiment

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.mark.slow
def test_a_process_that_shares_a_run_with_nobody_does_all_of_it(tmp_path: Path) -> None:
    models = {"a": scripted(), "b": scripted()}
    experiment = write_experiment(tmp_path / "one", models, runtime={"probe_examples": 1})
    alone = pipeline.evaluate(write_experiment(tmp_path / "other", models), Recorder())
    observer = Recorder()
    first = pipeline.evaluate(experiment, observer, shared=True)
    assert (first.num_missing, first.abandoned, first.summary.run.complete) == (0, (), True)
    assert content(first.run) == content(alone.run)
    assert sum(num_cells for _, num_cells in observer.commits) == 16
    assert [len(record.probe) for record in first.run.telemetry()] == [1, 1]
    report = first.run.report_path.stat().st_mtime_ns
    again = pipeline.evaluate(experiment, Recorder(), shared=True)
    assert again.summary == first.summary
    assert first.run.report_path.stat().st_mtime_ns == report
    sessions = first.run.manifest().sessions
    assert [(one.status, one.cells_done_before, one.cells_done_after) for one in sessions] == [
        ("complete", 0, 16), ("complete", 16, 16)
    ]  # fmt: skip
    assert len(list((first.run.path / "sessions").iterdir())) == 2
    last = pipeline.evaluate(experiment, Recorder())
    assert [one.status for one in last.run.manifest().sessions] == ["complete"] * 3
    assert last.summary.run.complete


def test_answers_of_other_processes_count_in_the_progress_and_are_not_computed(tmp_path: Path) -> None:
    """Another process commits shards while this one works."""
    experiment = write_experiment(tmp_path / "one", {"m": scripted(seconds_per_batch=0.3)}, num_examples=24)
    done = pipeline.evaluate(write_experiment(tmp_path / "other", {"m": scripted()}, num_examples=24), Recorder()).run
    run = RunDirectory(experiment.config.output.results_dir / "scripted")
    files = sorted((done.path / "answers").iterdir())

    def copy_the_others(num_shards: int) -> None:
        if num_shards == 1:
            mine = {path.name for path in (run.path / "answers").iterdir()}
            for path in [path for path in files if path.name not in mine][-2:]:
                (run.path / "answers" / path.name).write_bytes(path.read_bytes())

    observer = Recorder(on_committed=copy_the_others)
    outcome = pipeline.evaluate(experiment, observer, shared=True)
    assert content(outcome.run) == content(done)
    assert sum(num_cells for _, num_cells in observer.commits) == 24
    assert sum(record.num_answers for record in outcome.run.telemetry()) < 24


@pytest.mark.slow
def test_a_model_that_cannot_load_is_given_up_and_the_report_says_so(tmp_path: Path) -> None:
    models = {"broken": scripted(fail_to_load="no such weights"), "sound": scripted()}
    experiment = write_experiment(tmp_path, models)
    outcome = pipeline.evaluate(experiment, Recorder(), shared=True)
    assert outcome.num_missing == 8
    assert [entry.model for entry in outcome.abandoned] == ["broken"]
    assert not outcome.summary.run.complete
    manifest = outcome.run.manifest()
    assert [entry.model for entry in manifest.given_up] == ["broken"]
    assert manifest.sessions[-1].status == "incomplete"
    fixed = load_experiment(experiment.path, ["models.broken.engine_settings={}"])
    again = pipeline.evaluate(fixed, Recorder(), shared=True)
    assert (again.num_missing, again.summary.run.complete) == (0, True)


def test_a_run_that_is_shared_and_one_that_is_not_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "JOIN_LIMIT_S", 0.1)
    experiment = write_experiment(tmp_path, {"m": scripted()})
    run = RunDirectory(experiment.config.output.results_dir / "scripted")
    run.prepare()
    with shared(run), pytest.raises(RunDirectoryError, match="processes that share this directory"):
        pipeline.evaluate(experiment, Recorder())
    with exclusive(run), pytest.raises(RunDirectoryError, match="another moe-ray process"):
        pipeline.evaluate(experiment, Recorder(), shared=True)
