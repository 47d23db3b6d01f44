"""From a run directory to summary.json and report.html. Needs no model, no Ray, no data set."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from moe_ray.atomic import write_text_atomically
from moe_ray.comparison.analysis import analyse
from moe_ray.comparison.records import Summary
from moe_ray.comparison.runs import ScoredRun
from moe_ray.comparison.summary import SUMMARY_COLUMNS, summarise
from moe_ray.errors import RunDirectoryError
from moe_ray.report.browser import ANSWER_COLUMNS, CHOICE_COLUMNS, browser_payload, choose_examples
from moe_ray.report.html import render_report
from moe_ray.scoring.score import Metric
from moe_ray.scoring.table import Scores, read_scores, score_table
from moe_ray.store.owners import find_owners
from moe_ray.store.records import Manifest
from moe_ray.store.run_directory import RunDirectory


def write_report(run: RunDirectory) -> Summary:
    """Read a scored run, write summary.json and report.html into it, and return the summary.

    Raises `RunDirectoryError` when there is no run, or no scores yet.
    """
    return report_of(run, *scores_of_run(run))


def scores_of_run(run: RunDirectory) -> tuple[pa.Table, dict[str, Metric]]:
    """Read the scores of a run; see `read_scores`."""
    run.manifest()  # where there is no run at all, say so rather than that it has no scores
    return read_scores(run.scores_path)


def summary_of(run: RunDirectory, scores: Scores, metrics: Mapping[str, Metric]) -> Summary:
    """Summarise `scores` that are at hand already; writes nothing."""
    manifest = run.manifest()
    routes = run.routes() if manifest.router else None
    owners = find_owners(run, manifest)
    answers = owners.answers(SUMMARY_COLUMNS)
    if not answers.num_rows:
        _require_none(run, manifest, scores)
    return summarise(scores, metrics, manifest, owners.telemetry(), answers, routes=routes)


def _require_none(run: RunDirectory, manifest: Manifest, scores: Scores) -> None:
    """Raise `RunDirectoryError` when there are no answers though there were some: a report would say there are none."""
    num_done = max((session.cells_done_after or 0 for session in manifest.sessions), default=0)
    num_scored = len(score_table(scores)["value"].drop_null())
    if num_done or num_scored:
        raise RunDirectoryError(
            f"holds no answers of this run, though {num_done or num_scored} were there; the report is left as it is",
            where=str(run.path / "answers"),
            remedy="restore the folder answers/, or run moe-ray evaluate again to compute them",
        )


def scored_run(run: RunDirectory) -> ScoredRun:
    """The summary of a scored run with the scores and systems behind it, to compare it; writes nothing."""
    scores, metrics = scores_of_run(run)
    manifest = run.manifest()
    routes = run.routes() if manifest.router else None
    return ScoredRun(summary_of(run, scores, metrics), analyse(scores, metrics, manifest, routes))


def report_of(run: RunDirectory, scores: Scores, metrics: Mapping[str, Metric]) -> Summary:
    """Write the report of `scores` that are at hand already."""
    summary = summary_of(run, scores, metrics)
    payload = _payload(run, summary, scores)
    write_text_atomically(run.report_path, render_report(summary, run.manifest(), payload))
    write_text_atomically(run.summary_path, summary.model_dump_json(indent=2) + "\n")
    return summary


def _payload(run: RunDirectory, summary: Summary, scores: Scores) -> dict[str, Any]:
    """What the page carries of the answers. The texts of the others are never in memory together."""
    owners = find_owners(run, run.manifest())
    chosen = choose_examples(owners.answers(CHOICE_COLUMNS))
    shown = owners.answers(ANSWER_COLUMNS, chosen.where)
    examples = (example for domain in summary.domain_metrics for example in run.each_example(domain))
    routes = run.routes() if summary.routing is not None else None
    return browser_payload(summary, chosen, shown, examples, scores, routes)
