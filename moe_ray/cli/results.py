"""Commands that read run directories."""

from pathlib import Path

from moe_ray import pipeline
from moe_ray.cli.terminal import output_console
from moe_ray.config.load import LoadedExperiment
from moe_ray.report.tables import print_summary, run_comparison_tables
from moe_ray.store.run_directory import RunDirectory


def score_run(path: Path, *, experiment: LoadedExperiment | None, trust: bool, allow_weak_sandbox: bool) -> None:
    """Grade the answers of a run again, and write its report."""
    console = output_console(soft_wrap=True)
    pipeline.score(
        RunDirectory(path),
        experiment=experiment,
        trust=trust,
        allow_weak_sandbox=allow_weak_sandbox,
        tell=lambda text: console.print(text, markup=False),
    )
    report_run(path)


def report_run(path: Path) -> None:
    """Print the tables of a run and write its report."""
    run = RunDirectory(path)
    summary = pipeline.report(run)
    console = output_console()
    print_summary(console, summary)
    console.print(f"\nReport: {run.report_path}", soft_wrap=True)


def compare_run_directories(first: Path, second: Path) -> None:
    """Print what two runs share and where they differ."""
    comparison = pipeline.compare(RunDirectory(first), RunDirectory(second))
    output_console().print(run_comparison_tables(comparison))
