"""Commands of a run: evaluate, score, report, compare."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from moe_ray.cli.progress import LoggedObserver, ProgressDisplay, RunLog, open_log, session_log
from moe_ray.cli.terminal import output_console
from moe_ray.comparison.runs import RunComparison, SystemComparison
from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import RunFailedError, UserError
from moe_ray.report.export import as_csv, markdown
from moe_ray.report.tables import print_summary, run_comparison_tables, system_comparison_tables
from moe_ray.runs import evaluate as pipeline
from moe_ray.store.run_directory import RunDirectory


def evaluate_experiment(
    experiment: LoadedExperiment,
    only: str | None,
    reuse: Sequence[Path] = (),
    *,
    brief: bool = False,
    shared: bool = False,
) -> pipeline.Outcome:
    """Run or resume `experiment`, print its tables or the verdict alone, and say where the report is.

    Raises `RunFailedError` when work was given up: what is there is on disk and in the report.
    """
    console = output_console()
    log = open_log(experiment.config)
    run_path = experiment.config.output.results_dir / experiment.config.name
    try:
        with ProgressDisplay(console) as display, session_log(log):
            observer, sources = LoggedObserver(display, log), [RunDirectory(path) for path in reuse]
            outcome = pipeline.evaluate(experiment, observer, only=only, reuse=sources, shared=shared)
            _log_outcome(log, outcome)
    except KeyboardInterrupt:
        console.print(
            f"\nInterrupted. What was computed is kept in {run_path}; the same command resumes.",
            markup=False,
            soft_wrap=True,
        )
        raise
    print_summary(console, outcome.summary, brief=brief)
    console.print(f"\nReport: {outcome.run.report_path}", soft_wrap=True)
    if outcome.abandoned:
        reasons = "".join(
            f"\n  {entry.model}: {entry.num_cells} answers given up: {entry.reason}" for entry in outcome.abandoned
        )
        raise RunFailedError(
            f"{outcome.num_missing} answers are missing; the report counts them as unscored.{reasons}\n"
            "  remedy: fix the cause and run the same command again; it computes only what is missing"
        )
    return outcome


@contextmanager
def advised(experiment: LoadedExperiment) -> Iterator[None]:
    """After a run that failed, print what `moe-ray doctor` would have found before it, if that adds anything."""
    environment = dict(os.environ)
    try:
        yield
    except (UserError, RunFailedError) as error:
        from moe_ray.cli.doctor import advise

        advise(experiment, error, environment)
        raise


def _log_outcome(log: RunLog, outcome: pipeline.Outcome) -> None:
    missing = f"{outcome.num_missing} answers are missing" if outcome.num_missing else "all answers are there"
    log.write(f"{missing}; report: {outcome.run.report_path}")


class Form(StrEnum):
    """How a summary is printed."""

    TABLES = "tables"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


def score_run(path: Path, *, experiment: LoadedExperiment | None, trust: bool, allow_weak_sandbox: bool) -> None:
    """Grade the answers of a run again, and write its report."""
    console = output_console(soft_wrap=True)
    pipeline.score(
        RunDirectory(path),
        experiment=experiment,
        trust=trust,
        allow_weak_sandbox=allow_weak_sandbox,
        on_notice=lambda text: console.print(text, markup=False),
    )
    report_run(path)


def report_run(path: Path, form: str = Form.TABLES, *, brief: bool = False) -> None:
    """Write the report of a run, and print its tables, or the verdict alone, or the summary in another form."""
    if form not in list(Form):
        raise UserError(f"unknown format {form!r}", where="--format", remedy=f"one of {', '.join(Form)}")
    run = RunDirectory(path)
    summary = pipeline.report(run)
    if form == Form.TABLES:
        console = output_console()
        print_summary(console, summary, brief=brief)
        console.print(f"\nReport: {run.report_path}", soft_wrap=True)
        return
    texts = {Form.MARKDOWN: lambda: markdown(summary, brief=brief), Form.CSV: lambda: as_csv(summary)}
    text = texts.get(Form(form), lambda: f"{summary.model_dump_json(indent=2)}\n")()
    output_console(soft_wrap=True).print(text, end="")


def compare_results(first: Path, second: Path | None, systems: tuple[str, str] | None, *, as_json: bool) -> None:
    """Compare two runs, or two systems of one run, and print where they differ."""
    if (second is None) == (systems is None):
        raise UserError(
            "compare needs two runs, or one run and --systems",
            remedy="moe-ray compare RUN RUN, or moe-ray compare RUN --systems A B",
        )
    found: RunComparison | SystemComparison
    if second is not None:
        found = pipeline.compare(RunDirectory(first), RunDirectory(second))
        shown = run_comparison_tables(found)
    else:
        found = pipeline.compare_systems(RunDirectory(first), *(systems or ("", "")))
        shown = system_comparison_tables(found)
    if as_json:
        output_console(soft_wrap=True).print(found.model_dump_json(indent=2))
    else:
        output_console().print(shown)
