"""`moe-ray evaluate`: the pipeline with a progress display, and words for every way it can end."""

from collections.abc import Sequence
from pathlib import Path

from moe_ray import pipeline
from moe_ray.cli.progress import ProgressDisplay
from moe_ray.cli.run_log import LoggedObserver, open_log, session_log
from moe_ray.cli.terminal import output_console
from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import RunFailedError
from moe_ray.report.tables import print_summary
from moe_ray.store.log import RunLog
from moe_ray.store.run_directory import RunDirectory


def evaluate_experiment(
    experiment: LoadedExperiment, only: str | None, reuse: Sequence[Path] = (), *, brief: bool = False
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
            outcome = pipeline.evaluate(experiment, observer, only=only, reuse=sources)
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
            f"{outcome.num_missing} answers are missing and stand as unscored in the report.{reasons}\n"
            "  remedy: mend the cause and run the same command again; it computes only what is missing"
        )
    return outcome


def _log_outcome(log: RunLog, outcome: pipeline.Outcome) -> None:
    missing = f"{outcome.num_missing} answers are missing" if outcome.num_missing else "all answers are there"
    log.write(f"{missing}; report: {outcome.run.report_path}")
