"""From a run directory to summary.json and report.html. Needs no model, no Ray, no data set."""

from collections.abc import Mapping

from moe_ray.atomic import write_text_atomically
from moe_ray.comparison.records import Summary
from moe_ray.comparison.summary import SUMMARY_COLUMNS, summarise
from moe_ray.report.browser import ANSWER_COLUMNS, browser_payload, choose_examples
from moe_ray.report.html import render_report
from moe_ray.scoring.score import Metric
from moe_ray.scoring.table import Scores, read_scores
from moe_ray.store.run_directory import RunDirectory


def write_report(run: RunDirectory) -> Summary:
    """Read a scored run, write summary.json and report.html into it, and return the summary.

    Raises `RunDirectoryError` when there is no run, or no scores yet.
    """
    run.manifest()  # where there is no run at all, say so rather than that it has no scores
    scores, metrics = read_scores(run.scores_path)
    return report_of(run, scores, metrics)


def report_of(run: RunDirectory, scores: Scores, metrics: Mapping[str, Metric]) -> Summary:
    """Write the report of `scores` that are at hand already."""
    manifest, answers = run.manifest(), run.answers_table(SUMMARY_COLUMNS)
    summary = summarise(scores, metrics, manifest, run.telemetry(), answers)
    chosen = choose_examples(answers)
    shown = run.answers_table(ANSWER_COLUMNS, chosen.where)
    examples = (example for domain in summary.domain_metrics for example in run.each_example(domain))
    payload = browser_payload(summary, chosen, shown, examples, scores)
    write_text_atomically(run.report_path, render_report(summary, manifest, payload))
    write_text_atomically(run.summary_path, summary.model_dump_json(indent=2) + "\n")
    return summary
