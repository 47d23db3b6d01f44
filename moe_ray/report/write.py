"""From a run directory to summary.json and report.html. Needs no model, no Ray, no data set."""

import itertools
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa

from moe_ray import formatting as text
from moe_ray.comparison.records import MetricValue, PairedComparison, Summary
from moe_ray.comparison.runs import ScoredRun
from moe_ray.comparison.summary import SUMMARY_COLUMNS, analyse, summarise
from moe_ray.errors import RunDirectoryError
from moe_ray.files import write_text_atomically
from moe_ray.prompts.messages import Message
from moe_ray.report.browser import ANSWER_COLUMNS, CHOICE_COLUMNS, browser_payload, choose_examples, encoded
from moe_ray.report.cautions import SYNTHETIC, cautions
from moe_ray.report.measures import cost_table, latency_table, memory_table
from moe_ray.report.plots import cost_plot, quality_plot, resource_plots
from moe_ray.report.routing import routing_view
from moe_ray.report.routing_plots import own_test_plots, regret_plots, routing_plots
from moe_ray.report.sweep_plots import sweep_plots
from moe_ray.report.verdict import headline, terms
from moe_ray.report.views import MetricView, SystemRow, domain_views, winner_of
from moe_ray.scoring.score import Metric, Scores, read_scores, score_table
from moe_ray.store.records import Manifest
from moe_ray.store.reuse import find_owners
from moe_ray.store.run_directory import RunDirectory

TEST_NAMES = {"mcnemar_exact": "McNemar, exact", "paired_permutation": "paired permutation", None: text.NONE}
MAX_COLUMNS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptView:
    """One domain's prompt in one style, on one example."""

    domain: str
    style: str
    example_id: str
    messages: tuple[Message, ...]
    stop: tuple[str, ...]
    choices: tuple[str, ...]


def render_report(summary: Summary, manifest: Manifest, payload: Mapping[str, Any]) -> str:
    """Return the whole page. `payload` is `browser_payload`'s."""
    from jinja2 import Environment, StrictUndefined

    templates = files("moe_ray.report") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(_filters())
    template = environment.from_string((templates / "report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        css=(templates / "report.css").read_text(encoding="utf-8"),
        page_script=(templates / "page.js").read_text(encoding="utf-8"),
        browser_script=(templates / "browser.js").read_text(encoding="utf-8"),
        answers=encoded(payload),
        num_answers=payload["total"],
        num_shown=len(payload["answers"]),
        manifest_json=manifest.model_dump_json(indent=2),
        prompts=list(prompt_views(manifest)),
        **_summary_parts(summary),
    )


def _summary_parts(summary: Summary) -> dict[str, Any]:
    views, found = domain_views(summary), cautions(summary)
    return {
        "run": summary.run,
        "headline": headline(summary),
        "terms": terms(summary),
        "synthetic": [caution for caution in found if caution.title == SYNTHETIC],
        "warnings": [caution for caution in found if caution.level == "warning" and caution.title != SYNTHETIC],
        "notes": [caution for caution in found if caution.level == "note"],
        "domains": views,
        "systems": summary.systems,
        "metrics": summary.metrics,
        "model_names": list(summary.run.models),
        "num_comparisons": len(summary.comparisons),
        "comparisons": {view.name: [item for metric in view.metrics for item in metric.comparisons] for view in views},
        "quality_plots": {view.name: [quality_plot(view, metric) for metric in view.metrics] for view in views},
        "cost_plots": [plot for view in views if (plot := cost_plot(summary, view)) is not None],
        "cost_table": cost_table(summary, views),
        "routing": routing_view(summary),
        "routing_plots": routing_plots(summary),
        "sweep_plots": sweep_plots(summary),
        "regret_plots": regret_plots(summary),
        "test_plots": own_test_plots(summary),
        "resource_plots": list(resource_plots(summary)),
        "model_tables": [latency_table(summary.models), memory_table(summary.models)],
    }


def prompt_views(manifest: Manifest) -> Iterator[PromptView]:
    """One rendered prompt for each domain and prompt style of the run."""
    for domain, styles in manifest.prompts.items():
        for style, prompt in styles.items():
            yield PromptView(
                domain=domain,
                style=style,
                example_id=str(prompt.get("example", "")),
                messages=tuple(Message(**message) for message in prompt.get("messages", ())),
                stop=tuple(prompt.get("stop", ())),
                choices=tuple(prompt.get("choices", ())),
            )


def _filters() -> dict[str, Callable[..., Any]]:
    """Formatting, under the names that the template uses."""
    plain = ("number", "signed", "probability", "seconds", "count", "moment", "words", "plural")
    return {name: getattr(text, name) for name in plain} | {
        "bounds": _bounds,
        "parts": lambda metrics: list(_parts(metrics)),
        "command": _command,
        "winner": winner_of,
        "test_name": TEST_NAMES.__getitem__,
        "value_of": _value_of,
        "no_break_hyphens": lambda sentence: sentence.replace("-", "\N{NON-BREAKING HYPHEN}"),
    }


def _bounds(item: MetricValue | PairedComparison) -> str:
    return text.interval(item.low, item.high)


def _parts(metrics: Sequence[MetricView]) -> Iterator[Sequence[MetricView]]:
    """As few runs of `metrics` as fit across the page, about equally long."""
    num_parts = math.ceil(len(metrics) / MAX_COLUMNS)
    ends = [round(at * len(metrics) / num_parts) for at in range(num_parts + 1)]
    return (metrics[start:end] for start, end in itertools.pairwise(ends))


def _command(command: Sequence[str]) -> str:
    """A command line as one would type it: the program without its place on that machine."""
    program = Path(command[0]).name if command else ""
    return shlex.join(["moe-ray" if program == "__main__.py" else program, *command[1:]])


def _value_of(metric: MetricView, row: SystemRow) -> MetricValue:
    return next(value for shown, value in metric.values if shown.system == row.system)


def write_report(run: RunDirectory) -> Summary:
    """Read a scored run, write summary.json and report.html into it, and return the summary.

    Raises `RunDirectoryError` when there is no run, or no scores yet.
    """
    return report_of(run, *scores_of_run(run))


def scores_of_run(run: RunDirectory) -> tuple[pa.Table, dict[str, Metric]]:
    """Read the scores of a run; see `read_scores`."""
    run.manifest()  # raises if there is no run at all, before the missing scores are reported
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
