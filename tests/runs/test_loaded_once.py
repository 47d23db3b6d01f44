"""A run reads its data sets once, and searches near duplicates only where a router is to be trained."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.config.schema import DataConfig
from moe_ray.domains.sources import Source, read_source
from moe_ray.execution.observer import Join, RunObserver
from moe_ray.files import write_directory_atomically
from moe_ray.planning.fleet import Fleet, Node
from moe_ray.routing.files import DATA_FILE, ROUTER_FILE
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs import inputs as inputs_module
from moe_ray.runs import router as stage
from moe_ray.runs.inputs import Inputs, read_inputs
from moe_ray.runs.wanted_router import RouterData, WantedRouter, named_by_texts, read_texts, wanted_router
from moe_ray.scoring.registry import make_graders
from moe_ray.scoring.score import Grader
from moe_ray.store.routes import Routes
from moe_ray.texts import cleaning
from moe_ray.texts.similarity import NearIndex
from tests.execution.experiments import content
from tests.runs.worlds import NUM_ASKED, WORDS, write_world
from tests.support.inline import Inline, inline

pytestmark = pytest.mark.slow

__all__ = ["inline"]

ONE_SLOT = Fleet((Node(id="here", name="here", num_cpus=1, cpu_slots=1, gpu_bytes=()),))
# What the version that named routers by their texts called the router of `write_world(folder)`.
OLD_NAME = "760aac318881cf0b20d1b6a532ce7de6"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is read."""
    found: Counter[str] = Counter()

    def counted(data: DataConfig, base_dir: Path) -> Source:
        found[Path(data.source).name] += 1
        return read_source(data, base_dir)

    monkeypatch.setattr(inputs_module, "read_source", counted)
    return found


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each search of near duplicates."""
    found: list[int] = []

    class Index(NearIndex):
        def __init__(self, sample: Any) -> None:
            found.append(1)
            super().__init__(sample)

    monkeypatch.setattr(cleaning, "NearIndex", Index)
    return found


@pytest.fixture
def routed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a router be trained and asked in no time; returns which of both was done."""
    steps: list[str] = []

    def obtain(wanted: WantedRouter, data: RouterData | None, *_: object) -> None:
        if not wanted.is_there:
            assert data is not None
            steps.append("trained")
            write_directory_atomically(wanted.directory, lambda folder: (folder / ROUTER_FILE).write_text("{}"))

    def route(wanted: WantedRouter, inputs: Inputs, _join: Join, _observer: RunObserver) -> tuple[Routes, Any]:
        steps.append("asked")
        keys = [(name, example.id) for name, members in inputs.examples.items() for example in members]
        path = str(wanted.directory.relative_to(inputs.run.path))
        about = {"path": path, "fingerprint": wanted.fingerprint, "name": wanted.name}
        settings = wanted.config.model_dump(mode="json", by_alias=True)  # as the version without names wrote it
        return _routes(wanted.fingerprint, keys), {**about, "settings": settings}

    monkeypatch.setattr(stage, "obtain_router", obtain)
    monkeypatch.setattr(stage, "route_examples", route)
    return steps


def _routes(router: str, keys: list[tuple[str, str]]) -> Routes:
    zeros = np.zeros(len(keys))
    return Routes(
        router=router,
        domains=tuple(WORDS),
        threshold=0.0,
        example_domains=tuple(domain for domain, _ in keys),
        example_ids=tuple(example_id for _, example_id in keys),
        probabilities=np.full((len(keys), len(WORDS)), 0.5),
        scores=zeros,
        seconds=zeros,
    )


def leftovers(folder: Path) -> LoadedExperiment:
    """An experiment whose router learns from what the run leaves of the domains' own data."""
    write_world(folder)
    for domain in WORDS:
        (folder / f"{domain}.jsonl").write_text((folder / f"{domain}-texts.jsonl").read_text())
    limits = [f"domains.{domain}.max_examples={NUM_ASKED}" for domain in WORDS]
    return load_experiment(folder / "experiment.yaml", ["router.data={}", *limits])


def test_evaluation_and_router_read_each_data_set_once(
    tmp_path: Path, inline: Inline, reads: Counter[str], routed: list[str]
) -> None:
    assert inline.evaluate(leftovers(tmp_path)).num_missing == 0
    assert routed == ["trained", "asked"]
    assert reads == {"garden.jsonl": 1, "harbour.jsonl": 1}


def test_graders_are_made_once(
    tmp_path: Path, inline: Inline, routed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(names: Sequence[str], *settings: Any, where: str, **more: Any) -> list[Grader]:
        made.append(where)
        return make_graders(names, *settings, where=where, **more)

    monkeypatch.setattr("moe_ray.scoring.registry.make_graders", counted)
    assert inline.evaluate(write_world(tmp_path)).num_missing == 0
    assert routed
    assert made == ["domains.garden.graders", "domains.harbour.graders"]


def test_the_router_gets_its_texts_of_unchanged_records(tmp_path: Path) -> None:
    experiment = leftovers(tmp_path)
    inputs = read_inputs(experiment)
    for record in inputs.data_sets.read(experiment.config.domains["garden"].data, experiment.base_dir).records:
        record.clear()  # type: ignore[attr-defined]
    shared = read_texts(experiment, inputs.examples, read=inputs.data_sets.read)
    assert shared == read_texts(experiment, inputs.examples)
    assert len(shared.texts.train) > NUM_ASKED


def test_a_plan_a_resume_and_a_finished_run_search_no_near_duplicates(
    tmp_path: Path, inline: Inline, searches: list[int], routed: list[str]
) -> None:
    experiment = write_world(tmp_path)
    planned = pipeline.plan(experiment, ONE_SLOT)
    assert searches == []
    assert planned.router is not None
    assert planned.router.texts is not None
    inline.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        inline.evaluate(experiment)
    assert searches == [1], "the router was trained"
    inline.stop_after = None
    for _resume_then_finished in range(2):
        assert inline.evaluate(experiment).num_missing == 0
    assert pipeline.plan(experiment, ONE_SLOT).work.num_to_do == 0
    assert (searches, routed) == ([1], ["trained", "asked"])


def test_a_plan_counts_no_fewer_texts_than_training_takes(tmp_path: Path) -> None:
    experiment = write_world(tmp_path)
    path = tmp_path / "garden-texts.jsonl"
    line = path.read_text().splitlines()[0]
    path.write_text(path.read_text() + line.replace("number 10", "number 10 ,").replace("texts-0", "texts-near") + "\n")
    planned = pipeline.plan(experiment, ONE_SLOT).router
    assert planned is not None
    assert planned.texts is not None
    taken = read_texts(experiment, read_inputs(experiment).examples)
    counted, kept = ([*texts.train, *texts.validation, *texts.test] for texts in (planned.texts, taken.texts))
    assert {text.id for text in kept} < {text.id for text in counted}
    assert {source.dropped.get("near duplicate", 0) for source in taken.report.sources} == {0, 1}


def test_a_run_that_was_stopped_before_its_manifest_knew_its_routes_asks_again(
    tmp_path: Path, inline: Inline, routed: list[str]
) -> None:
    experiment = write_world(tmp_path)
    run = inline.evaluate(experiment).run
    manifest = run.manifest()
    assert manifest.router is not None
    manifest.router |= {"fingerprint": "of another router", "name": "another"}
    run.write_manifest(manifest)
    inline.evaluate(experiment)
    assert routed == ["trained", "asked", "asked"]
    name = wanted_router(read_inputs(experiment)).name
    router = run.manifest().router
    assert router is not None
    assert router["name"] == router["fingerprint"] == name


@contextmanager
def old_run(folder: Path, inline: Inline) -> Iterator[LoadedExperiment]:
    """A finished run as the version left it that named routers by their texts."""
    experiment = write_world(folder)
    run = inline.evaluate(experiment).run
    inputs = read_inputs(experiment)
    old = named_by_texts(wanted_router(inputs), run, read_texts(experiment, inputs.examples).texts)
    manifest, routes = run.manifest(), run.routes()
    assert manifest.router is not None
    assert routes is not None
    shutil.move(run.path / manifest.router["path"], old.directory)
    manifest.router |= {"path": f"routers/{old.directory.name}", "fingerprint": old.fingerprint}
    del manifest.router["name"]
    run.write_manifest(manifest)
    run.write_routes(_routes(old.fingerprint, list(zip(routes.example_domains, routes.example_ids, strict=True))))
    yield experiment


def test_the_name_that_an_earlier_version_gave_a_router_is_known(tmp_path: Path) -> None:
    experiment = write_world(tmp_path)
    inputs = read_inputs(experiment)
    old = named_by_texts(wanted_router(inputs), inputs.run, read_texts(experiment, inputs.examples).texts)
    assert (old.fingerprint, old.directory.name) == (OLD_NAME, f"tfidf-{OLD_NAME[:8]}")


def test_a_run_of_an_earlier_version_keeps_its_router_its_routes_and_its_answers(
    tmp_path: Path, inline: Inline, searches: list[int], routed: list[str]
) -> None:
    with old_run(tmp_path, inline) as experiment:
        before, num_before = content(wanted_run(experiment)), len(inline.computed)
        searches.clear()
        routed.clear()
        planned = pipeline.plan(experiment, ONE_SLOT).router
        assert planned is not None
        assert planned.wanted.is_there
        assert searches == []
        for num_searches in (1, 1):  # its texts are compared once, because router.data names files of its own
            assert inline.evaluate(experiment).num_missing == 0
            assert len(searches) == num_searches
        assert (content(wanted_run(experiment)), len(inline.computed), routed) == (before, num_before, [])
        assert [path.name for path in wanted_run(experiment).routers_path.iterdir()] == [f"tfidf-{OLD_NAME[:8]}"]


def test_a_run_of_an_earlier_version_whose_texts_changed_gets_another_router(
    tmp_path: Path, inline: Inline, routed: list[str]
) -> None:
    with old_run(tmp_path, inline) as experiment:
        routed.clear()
        write_world(tmp_path, num_texts=59)
        inline.evaluate(experiment)
        assert routed == ["trained", "asked"]
        assert len(list(wanted_run(experiment).routers_path.iterdir())) == 2


def wanted_run(experiment: LoadedExperiment) -> Any:
    return read_inputs(experiment).run


def test_what_became_of_the_records_is_told_by_a_router_that_was_trained_before_the_run(
    tmp_path: Path, inline: Inline, routed: list[str]
) -> None:
    experiment = write_world(tmp_path)
    wanted = wanted_router(read_inputs(experiment))
    wanted.directory.mkdir(parents=True)
    (wanted.directory / ROUTER_FILE).write_text("{}")
    (wanted.directory / DATA_FILE).write_text('{"sources": [], "num_unbalanced": {"garden": 3}}')
    router = inline.evaluate(experiment).run.manifest().router
    assert router is not None
    assert router["data"] == {"sources": [], "num_unbalanced": {"garden": 3}}
    assert routed == ["asked"]
