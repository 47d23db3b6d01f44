"""Reports of synthetic runs, made once for all tests."""

from pathlib import Path
from typing import NamedTuple

import pytest

from moe_ray.comparison.records import Summary
from moe_ray.report.write import write_report
from moe_ray.scoring.score import Score, write_scores
from moe_ray.store.run_directory import RunDirectory
from tests.support.synthetic_routes import route
from tests.support.synthetic_run import ALL_METRICS, synthetic_run


class Reported(NamedTuple):
    run: RunDirectory
    scores: list[Score]
    summary: Summary
    page: str


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """A run of four models, three domains and 240 answers, with its report."""
    return _reported(tmp_path_factory.mktemp("report") / "run", with_router=False)


@pytest.fixture(scope="session")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """The same run behind a router that errs now and then."""
    return _reported(tmp_path_factory.mktemp("routed") / "run", with_router=True)


def _reported(path: Path, *, with_router: bool) -> Reported:
    run, scores = synthetic_run(path, num_models=4, num_answers=240)
    if with_router:
        route(run)
    write_scores(run.scores_path, scores, ALL_METRICS)
    summary = write_report(run)
    return Reported(run, scores, summary, run.report_path.read_text(encoding="utf-8"))
