"""A run with a router, on a real Ray with scripted models."""

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_ray.comparison.records import Summary
from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.domains.example import query_of
from moe_ray.errors import ModelError, RunFailedError, UserError
from moe_ray.planning.fleet import Fleet
from moe_ray.routing.router import Router
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs import router as stage
from moe_ray.runs.grading import StoredRun
from moe_ray.runs.stored import Run
from moe_ray.store.run_directory import RunDirectory
from tests.execution.experiments import Recorder, content
from tests.runs.worlds import NUM_ASKED, WORDS, write_world
from tests.support.old_names import with_old_names, write_old_router

pytestmark = pytest.mark.usefixtures("local_ray")

MISPLACED = (1, 4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> LoadedExperiment:
    experiment = write_world(tmp_path_factory.mktemp("routed"), misplaced=MISPLACED)
    outcome = pipeline.evaluate(experiment, Recorder())
    assert (outcome.num_missing, outcome.abandoned) == (0, ())
    return experiment


@pytest.fixture
def run(finished: LoadedExperiment) -> RunDirectory:
    return RunDirectory(finished.config.output.results_dir / finished.config.name)


def test_only_the_examples_that_were_sent_elsewhere_are_asked_beside_the_matrix(run: RunDirectory) -> None:
    asked = Counter((row["domain"], row["model"]) for row in content(run))
    assert asked == {
        ("garden", "gardener"): NUM_ASKED,
        ("garden", "general"): NUM_ASKED,
        ("garden", "sailor"): len(MISPLACED),
        ("harbour", "sailor"): NUM_ASKED,
        ("harbour", "general"): NUM_ASKED,
    }
    elsewhere = {row["example_id"] for row in content(run) if (row["domain"], row["model"]) == ("garden", "sailor")}
    assert elsewhere == {f"garden-{at}" for at in MISPLACED}


def test_the_routes_that_are_kept_are_the_saved_routers_own(run: RunDirectory) -> None:
    record, routes = run.manifest().router, run.routes()
    assert record is not None
    assert routes is not None
    router = Router.load(run.path / record["path"])
    assert routes.domains == ("garden", "harbour")
    examples = {(domain, example.id): example for domain in WORDS for example in run.examples(domain)}
    places = zip(routes.example_domains, routes.example_ids, strict=True)
    asked = [query_of(examples[place], "question") for place in places]
    assert routes.probabilities == pytest.approx(router.predict_proba(asked), abs=1e-12)
    assert routes.threshold == router.threshold
    assert record["test_results"]["accuracy"] == 1.0
    assert record["resources"]["peak_resident_bytes"] > 20 << 20


def test_an_expert_is_graded_on_the_examples_that_it_was_asked_and_on_no_others(run: RunDirectory) -> None:
    summary = pipeline.report(run)
    assert {system.name for system in summary.systems if "garden" in system.picks and system.kind == "model"} == {
        "gardener",
        "general",
    }
    routed = next(system for system in summary.systems if system.name == "routed")
    assert routed.picks["garden"] == {"gardener": NUM_ASKED - len(MISPLACED), "sailor": len(MISPLACED)}
    value = summary.value("routed", "garden", "accuracy")
    assert value is not None
    assert (value.n, value.n_unscored) == (NUM_ASKED, 0)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("the router was trained or asked again")

    monkeypatch.setattr(stage, "obtain_router", refuse)
    monkeypatch.setattr(stage, "route_examples", refuse)


@pytest.mark.usefixtures("no_training")
def test_a_finished_run_trains_nothing_asks_nothing_and_computes_nothing_again(
    finished: LoadedExperiment, run: RunDirectory
) -> None:
    before, observer = content(run), Recorder()
    pipeline.evaluate(finished, observer)
    assert (content(run), observer.commits) == (before, [])
    planned = pipeline.plan(finished, Fleet(()))
    assert planned.work.num_to_do == 0
    assert planned.router is not None
    assert planned.router.wanted.is_there
    assert planned.router.texts is None


@pytest.mark.usefixtures("no_training")
def test_a_run_written_under_the_old_names_is_read_and_nothing_of_it_is_made_again(
    finished: LoadedExperiment, run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = RunDirectory(Path(shutil.copytree(run.path, tmp_path / "routed")))
    record = old.manifest().router
    assert record is not None
    write_old_router(old.path / record["path"])
    for path in (old.manifest_path, old.summary_path):
        path.write_text(json.dumps(with_old_names(json.loads(path.read_text()))))
    old.config_path.write_text(old.config_path.read_text().replace("out_of_domain:", "foreign:"))
    assert "foreign:" in old.config_path.read_text()
    assert _routing(Run(old.path).summary) == _routing(Run(run.path).summary)

    monkeypatch.setattr(StoredRun, "grade", _refuse_to_grade)
    for file in (old.config_path, finished.path):
        observer = Recorder()
        changes = ["router.foreign.keep=0.95", f"output.results_dir={tmp_path}"]
        outcome = pipeline.evaluate(load_experiment(file, changes), observer)
        assert (content(old), observer.commits) == (content(run), [])
        assert _routing(outcome.summary) == _routing(Run(run.path).summary)
        assert "foreign" not in old.config_path.read_text()


def _routing(summary: Summary) -> dict[str, Any]:
    """What the summary says of the router, without its settings as they were written."""
    assert summary.routing is not None
    return summary.routing.model_dump(exclude={"router"})


def _refuse_to_grade(*_: object) -> None:
    raise AssertionError("the answers were graded again")


@pytest.mark.slow
def test_a_router_that_lies_elsewhere_is_loaded_and_nothing_is_trained(run: RunDirectory, tmp_path: Path) -> None:
    record = run.manifest().router
    assert record is not None
    experiment = write_world(tmp_path, misplaced=MISPLACED, path=str(run.path / record["path"]))
    outcome = pipeline.evaluate(experiment, Recorder())
    assert not outcome.run.path.joinpath("routers").exists()
    mine, other = outcome.run.routes(), run.routes()
    assert mine is not None
    assert other is not None
    assert mine.probabilities.tolist() == other.probabilities.tolist()


def test_a_router_of_other_domains_is_refused_before_anything_is_asked(run: RunDirectory, tmp_path: Path) -> None:
    record = run.manifest().router
    assert record is not None
    write_world(tmp_path, path=str(run.path / record["path"]))
    file = tmp_path / "experiment.yaml"
    file.write_text(file.read_text().replace("harbour:", "port:"))
    experiment = load_experiment(file, ["router.data={}"])
    with pytest.raises(ModelError, match=r"garden, harbour; the experiment's domains are garden, port") as caught:
        pipeline.evaluate(experiment, Recorder())
    assert caught.value.where is not None
    assert "router.path" in caught.value.where
    assert not list((tmp_path / "results" / "routed" / "answers").glob("*"))


@pytest.mark.slow
def test_an_error_of_the_training_is_told_as_itself_and_the_session_as_failed(tmp_path: Path) -> None:
    experiment = write_world(
        tmp_path, kind="transformer", architecture={"model_type": "distilbert", "n_heads": 5, "dim": 32}
    )
    with pytest.raises(UserError) as caught:
        pipeline.evaluate(experiment, Recorder())
    assert caught.value.remedy
    run = RunDirectory(tmp_path / "results" / "routed")
    assert run.manifest().sessions[-1].status == "failed"
    assert not list((run.path / "answers").glob("*"))


@pytest.mark.slow
def test_a_training_that_is_interrupted_leaves_no_router_and_the_same_command_goes_on(tmp_path: Path) -> None:
    class Impatient(Recorder):
        def training(self, step: int, num_steps: int, detail: str) -> None:
            raise KeyboardInterrupt

    experiment = write_world(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        pipeline.evaluate(experiment, Impatient())
    run = RunDirectory(tmp_path / "results" / "routed")
    assert run.manifest().sessions[-1].status == "interrupted"
    assert not run.path.joinpath("routers").exists()
    assert pipeline.evaluate(experiment, Recorder()).num_missing == 0
    assert [session.status for session in run.manifest().sessions] == ["interrupted", "complete"]


@pytest.mark.slow
def test_the_baseline_alone_needs_no_router(tmp_path: Path) -> None:
    outcome = pipeline.evaluate(write_world(tmp_path), Recorder(), only="baseline")
    assert outcome.run.manifest().router is None
    assert not outcome.run.path.joinpath("routers").exists()
    assert {row["model"] for row in content(outcome.run)} == {"general"}


def _dies_first(function: Any, folder: Path, num_deaths: int) -> Any:
    """`function`, a generator, but the worker that runs it is killed the first `num_deaths` times."""
    folder.mkdir()
    folder_name = str(folder)

    def dying(job: Any) -> Iterator[Any]:
        num_before = len(list(Path(folder_name).iterdir()))
        Path(folder_name, str(num_before)).touch()
        if num_before < num_deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        for event in function(job):  # noqa: UP028 - Ray reads a generator function, not what it delegates to
            yield event

    return dying


@pytest.mark.slow
@pytest.mark.parametrize("step", ["train_router", "route_queries"])
def test_a_router_task_whose_worker_is_killed_is_run_again(
    finished: LoadedExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(stage, step, _dies_first(getattr(stage, step), tmp_path / "attempts", 1))
    observer = Recorder()
    outcome = pipeline.evaluate(write_world(tmp_path / "world", misplaced=MISPLACED), observer)
    assert outcome.num_missing == 0
    (notice,) = observer.notices
    assert notice.startswith({"train_router": "the router's training", "route_queries": "routing"}[step])
    assert "attempt 2 of 3" in notice
    undisturbed = RunDirectory(finished.config.output.results_dir / finished.config.name).routes()
    routes = outcome.run.routes()
    assert routes is not None
    assert undisturbed is not None
    assert routes.probabilities.tolist() == undisturbed.probabilities.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["train_router", "route_queries"])
def test_a_router_task_that_kills_its_worker_each_time_stops_the_run_and_the_same_command_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    experiment = write_world(tmp_path / "world", misplaced=MISPLACED)
    with monkeypatch.context() as patch:
        patch.setattr(stage, step, _dies_first(getattr(stage, step), tmp_path / "attempts", 99))
        with pytest.raises(RunFailedError, match=r"lost its worker in 3 attempts; the last: \w+") as caught:
            pipeline.evaluate(experiment, Recorder())
    assert "run the same command again" in str(caught.value)
    assert len(list((tmp_path / "attempts").iterdir())) == 3
    run = RunDirectory(experiment.config.output.results_dir / experiment.config.name)
    assert run.manifest().sessions[-1].status == "failed"
    assert pipeline.evaluate(experiment, Recorder()).num_missing == 0
