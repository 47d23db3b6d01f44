"""`moe-ray router train`: the router of an experiment, without its run."""

import shutil
from pathlib import Path

from moe_ray import pipeline
from moe_ray.cli.progress import ProgressDisplay
from moe_ray.cli.terminal import output_console
from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import DataError, ModelError
from moe_ray.printable import one_line
from moe_ray.report.format import number, plural
from moe_ray.report.text_table import TextTable
from moe_ray.routing.results import RouterTestResults


def train_router(experiment: LoadedExperiment, out: Path | None) -> None:
    """Train the router that `experiment` wants, where it is not there yet, and say how good it is.

    A run of the experiment uses it. With `out` it is copied there too.
    """
    if out is not None and out.exists() and any(out.iterdir()):
        raise ModelError("there is something here already", where=str(out), remedy="name a new folder with --out")
    console = output_console()
    with ProgressDisplay(console) as display:
        directory, results = pipeline.train_router(experiment, display)
    if results is not None:
        console.print(results_table(results))
        console.print(_sentence(results), soft_wrap=True)
    if out is not None:
        _copy(directory, out)
    console.print(f"\nRouter: {out or directory}", soft_wrap=True)


def _copy(directory: Path, out: Path) -> None:
    try:
        shutil.copytree(directory, out, dirs_exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}", where=str(out), remedy="choose another folder"
        ) from error


def results_table(results: RouterTestResults) -> TextTable:
    """The labels of the test texts, one a row."""
    table = TextTable(title=f"On {plural(results.n, 'test text')} that it has never seen", title_justify="left")
    table.add_column("label")
    for heading in ("texts", "precision", "recall", "F1"):
        table.add_column(heading, justify="right")
    for row in results.per_label:
        table.add_row(row.label, f"{row.n:,}", number(row.precision), number(row.recall), number(row.f1))
    return table


def _sentence(results: RouterTestResults) -> str:
    parts = [
        f"accuracy {number(results.accuracy)} ({number(results.accuracy_low)} to {number(results.accuracy_high)})",
        f"macro-F1 {number(results.macro_f1)}",
        f"calibration error {number(results.after_scaling.ece)} (before scaling {number(results.before_scaling.ece)})",
    ]
    foreign = [
        f"{one_line(item.set)}: AUROC {number(item.auroc)}, {item.kept:.0%} kept"
        for item in results.foreign
        if item.kept is not None
    ]
    told = f"\nforeign queries by {results.foreign_score}: {'; '.join(foreign)}" if foreign else ""
    return ", ".join(parts) + told
