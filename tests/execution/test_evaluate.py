"""The whole path on a real Ray: replicas that work, crash, hang and fail to load; runs that end and go on."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.errors import CapacityError, RunDirectoryError
from moe_ray.runs import evaluate as pipeline
from moe_ray.store.run_directory import RunDirectory
from tests.execution.experiments import Recorder, content, scripted, write_experiment

pytestmark = pytest.mark.usefixtures("local_ray")


def wait_until_gone(pids: list[int], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(psutil.pid_exists(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_run_fills_its_matrix_and_tells_what_each_replica_cost(tmp_path: Path) -> None:
    models = {"quick": scripted(memory_bytes=1000), "slow": scripted(seconds_per_token=0.002, load_s=0.1)}
    experiment = write_experiment(tmp_path, models, likelihood=True, runtime={"probe_examples": 2, "cpu_slots": 2})
    observer = Recorder()
    outcome = pipeline.evaluate(experiment, observer)
    assert (outcome.num_missing, outcome.abandoned) == (0, ())
    rows = content(outcome.run)
    assert len(rows) == 2 * 8 * 2
    assert {row["kind"] for row in rows} == {"generate", "likelihood"}
    assert sum(num_cells for _, num_cells in observer.commits) == len(rows)
    assert outcome.run.report_path.is_file()
    telemetry = outcome.run.telemetry()
    for model in models:
        records = [record for record in telemetry if record.model == model]
        tokens = sum(row["num_completion_tokens"] for row in rows if row["model"] == model)
        assert sum(record.num_answers for record in records) == 16
        assert sum(record.num_completion_tokens for record in records) == tokens
        assert sorted(len(record.probe) for record in records)[-1] == 2
        # Rows of a batch of two share its time: the tokens of the longer one were waited for.
        least_s = 0.002 * tokens / 2 if model == "slow" else 0.0
        assert sum(record.busy_s for record in records) >= least_s
    for record in telemetry:
        assert (record.end, record.reason, record.device) == ("finished", None, "cpu")
        assert (record.peak_resident_bytes or 0) > 20 << 20
        assert (record.peak_torch_bytes, record.peak_gpu_process_bytes, record.gpu_energy_j) == (None, None, None)
        assert record.cuda_visible_devices == ""
        assert record.load_s is not None
        assert record.load_s >= (0.1 if record.model == "slow" else 0.0)
        assert record.weights_bytes == (1000 if record.model == "quick" else 0)
        assert record.unload_s is not None
    assert wait_until_gone([record.pid for record in telemetry])


@pytest.mark.slow
def test_a_checkpoint_with_two_names_is_loaded_once_and_answers_for_both(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, {"a": scripted(), "b": scripted()}, likelihood=True)
    same = load_experiment(experiment.path, ["models.b.path=scripted/a"])
    observer = Recorder()
    outcome = pipeline.evaluate(same, observer)
    assert (outcome.num_missing, outcome.summary.run.complete) == (0, True)
    assert {row["model"] for row in content(outcome.run)} == {"a"}
    assert sum(num_cells for _, num_cells in observer.commits) == len(content(outcome.run)) == 8 * 2
    assert observer.count("starting") == 1
    one, other = (outcome.summary.models[name].model_dump() for name in ("a", "b"))
    assert one == other
    assert [record.identity is not None for record in outcome.run.telemetry()] == [True]
    renamed = load_experiment(same.path, ["models.b.path=scripted/a", "models.a.path=scripted/new"])
    with pytest.raises(RunDirectoryError, match=r"models\.a\.path: scripted/a -> scripted/new"):
        pipeline.evaluate(renamed, Recorder())


def test_one_slot_holds_one_model_at_a_time(tmp_path: Path) -> None:
    models = {"first": scripted(), "second": scripted()}
    observer = Recorder()
    outcome = pipeline.evaluate(write_experiment(tmp_path, models), observer)
    assert outcome.num_missing == 0
    order = [(replica, state) for replica, state, _ in observer.states if state in ("starting", "gone")]
    assert order == [("first-1", "starting"), ("first-1", "gone"), ("second-1", "starting"), ("second-1", "gone")]


@pytest.mark.slow
def test_a_crashed_replica_is_replaced_and_its_shard_is_run_again(tmp_path: Path) -> None:
    model = scripted(crash_on=["t3"], fault_dir=str(tmp_path / "faults"))
    observer = Recorder()
    outcome = pipeline.evaluate(write_experiment(tmp_path, {"m": model}), observer)
    assert (outcome.num_missing, outcome.abandoned) == (0, ())
    assert observer.count("lost") == 1
    ends = sorted(record.end for record in outcome.run.telemetry())
    assert ends == ["finished", "lost"]
    assert len(content(outcome.run)) == 8


@pytest.mark.slow
def test_an_example_that_always_crashes_is_given_up_alone_and_tried_again_by_a_later_run(tmp_path: Path) -> None:
    model = scripted(crash_on=["t3"], crash_times=7, fault_dir=str(tmp_path / "faults"))
    experiment = write_experiment(tmp_path, {"m": model, "other": scripted()}, num_examples=12)
    observer = Recorder()
    outcome = pipeline.evaluate(experiment, observer)
    assert outcome.num_missing == 1
    (given_up,) = outcome.abandoned
    assert (given_up.model, given_up.num_cells) == ("m", 1)
    # Three times in its shard of four, then in a half of it, then alone.
    assert given_up.reason.startswith("example t3 of parity failed 5 times; the last: ")
    # A first failure may be taken for that of one of the two other shards, whose result was on its way.
    assert 5 <= observer.count("lost") <= 7
    assert observer.given_up == [("m", 1, given_up.reason)]
    manifest = outcome.run.manifest()
    assert [entry.reason for entry in manifest.given_up] == [given_up.reason]
    assert manifest.sessions[-1].status == "incomplete"
    answered = {(row["model"], row["example_id"]) for row in content(outcome.run)}
    assert answered == {(name, f"t{i}") for name in ("m", "other") for i in range(12)} - {("m", "t3")}
    again = pipeline.evaluate(experiment, Recorder())
    assert (again.num_missing, again.abandoned, again.run.manifest().given_up) == (0, (), [])


def test_a_model_that_cannot_load_is_given_up_at_once_with_its_reason_while_others_go_on(tmp_path: Path) -> None:
    models = {"broken": scripted(fail_to_load="no such weights"), "sound": scripted()}
    observer = Recorder()
    outcome = pipeline.evaluate(write_experiment(tmp_path, models), observer)
    assert outcome.num_missing == 8
    (given_up,) = outcome.abandoned
    assert given_up.model == "broken"
    assert "no such weights" in given_up.reason
    assert {row["model"] for row in content(outcome.run)} == {"sound"}
    (record,) = [record for record in outcome.run.telemetry() if record.model == "broken"]
    assert record.end == "failed_to_start"
    assert observer.count("failed") == 1


@pytest.mark.slow
def test_a_hanging_replica_is_ended_at_its_time_limit_and_its_shard_is_run_again(tmp_path: Path) -> None:
    model = scripted(hang_on=["t3"], hang_times=1, fault_dir=str(tmp_path / "faults"))
    experiment = write_experiment(tmp_path, {"m": model}, runtime={"shard_timeout_s": 4.0})
    outcome = pipeline.evaluate(experiment, Recorder())
    assert (outcome.num_missing, outcome.abandoned) == (0, ())
    lost = [record for record in outcome.run.telemetry() if record.end == "lost"]
    assert [record.reason for record in lost] == ["no end of shard within its time limit"]
    assert wait_until_gone([record.pid for record in lost])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> LoadedExperiment:
    """An experiment of which 5 of 12 examples are answered."""
    experiment = write_experiment(tmp_path_factory.mktemp("finished"), {"m": scripted()}, num_examples=12)
    few = load_experiment(experiment.path, ["domains.parity.max_examples=5"])
    pipeline.evaluate(few, Recorder())
    return few


def copied(experiment: LoadedExperiment, to: Path, *overrides: str) -> tuple[LoadedExperiment, RunDirectory]:
    """The experiment with changes, and a copy of its run directory that it works in."""
    shutil.copytree(experiment.config.output.results_dir, to)
    changed = load_experiment(
        experiment.path, ["domains.parity.max_examples=5", f"output.results_dir={to}", *overrides]
    )
    return changed, RunDirectory(to / "scripted")


def test_a_finished_run_computes_nothing_again(finished: LoadedExperiment, tmp_path: Path) -> None:
    again, run = copied(finished, tmp_path / "copy")
    before = {path.name: path.stat().st_mtime_ns for path in (run.path / "answers").iterdir()}
    observer = Recorder()
    pipeline.evaluate(again, observer)
    assert observer.states == []
    assert {path.name: path.stat().st_mtime_ns for path in (run.path / "answers").iterdir()} == before
    assert [session.status for session in run.manifest().sessions] == ["complete", "complete"]


def test_more_examples_compute_only_what_is_missing(finished: LoadedExperiment, tmp_path: Path) -> None:
    more, run = copied(finished, tmp_path / "copy", "domains.parity.max_examples=12")
    before = content(run)
    observer = Recorder()
    pipeline.evaluate(more, observer)
    assert len(before) == 5
    assert sum(num_cells for _, num_cells in observer.commits) == 7
    after = content(run)
    assert len(after) == 12
    assert all(row in after for row in before)


def test_a_changed_decoding_is_refused_with_the_difference_and_nothing_is_lost(
    finished: LoadedExperiment, tmp_path: Path
) -> None:
    changed, run = copied(finished, tmp_path / "copy", "decoding.temperature=0.5")
    before = content(run)
    with pytest.raises(RunDirectoryError, match=r"temperature: 0.0 -> 0.5"):
        pipeline.evaluate(changed, Recorder())
    assert content(run) == before


def interrupt_after(num_shards: int) -> Callable[[int], None]:
    def on_committed(num_committed: int) -> None:
        if num_committed == num_shards:
            raise KeyboardInterrupt

    return on_committed


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_process_and_resumes_where_it_was(tmp_path: Path) -> None:
    models = {"first": scripted(seconds_per_batch=0.05), "second": scripted(seconds_per_batch=0.05)}
    experiment = write_experiment(tmp_path, models, num_examples=16, runtime={"cpu_slots": 2})
    run = RunDirectory(experiment.config.output.results_dir / "scripted")
    with pytest.raises(KeyboardInterrupt):
        pipeline.evaluate(experiment, Recorder(on_committed=interrupt_after(2)))
    assert run.manifest().sessions[-1].status == "interrupted"
    before = content(run)
    assert len(before) == 8
    interrupted = run.telemetry()
    assert {record.reason for record in interrupted} <= {"the run was interrupted", None}
    assert wait_until_gone([record.pid for record in interrupted if record.pid])
    observer = Recorder()
    outcome = pipeline.evaluate(experiment, observer)
    assert outcome.num_missing == 0
    assert sum(num_cells for _, num_cells in observer.commits) == 32 - 8
    assert [row for row in content(run) if row in before] == before


@pytest.mark.slow
def test_gpus_that_are_demanded_and_not_there_are_an_error_and_not_a_wait(tmp_path: Path) -> None:
    model = {**scripted(), "gpus": 1}
    with pytest.raises(CapacityError, match=r"takes 1 GPU\(s\) \(as configured\), and the largest node has 0"):
        pipeline.evaluate(write_experiment(tmp_path, {"m": model}), Recorder())
