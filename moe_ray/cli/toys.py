"""The command that trains toys."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress

from moe_ray.cli.terminal import LineColumn, output_console
from moe_ray.formatting import interval, number, percent, plural
from moe_ray.report.text_table import TextTable
from moe_ray.specialisation.toy.records import TEST_FILE, ToyReport, seed_folder
from moe_ray.specialisation.toy.request import load_toy_config

DIGITS = 3


def train_toys(file: Path, out: Path, overrides: Sequence[str]) -> None:
    """Train the seeds of `file`, and print their accuracy."""
    config = load_toy_config(file, overrides)
    # Imported here, so that a mistake in the file is reported before torch is loaded.
    from moe_ray.specialisation.toy.run import ToyProgress, train_toy

    console = output_console(soft_wrap=True)
    columns = (LineColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("training", total=None)

        def on_epoch(seed: int, loss: float) -> None:
            progress.update(task, advance=1, description=f"seed {seed}, loss {number(loss)}")

        report = train_toy(
            config,
            out,
            ToyProgress(
                on_start=lambda total, done: progress.update(task, total=total, completed=done), on_epoch=on_epoch
            ),
        )
    console.print(_table(report))
    console.print(f"Mean over {plural(len(report.seeds), 'seed')}: accuracy {_mean(report)}")
    console.print(f"Always the largest class: {percent(report.majority)}")
    console.print(f"\nTexts to trace and ablate: {out / TEST_FILE}")
    console.print(f"Models: {seed_folder(out, report.seeds[0].seed)}, ...")


def _table(report: ToyReport) -> TextTable:
    """One row per seed: accuracy with its interval over texts, and that on each class."""
    table = TextTable(title=f"Accuracy of {report.model} on held-out texts", title_justify="left")
    table.add_column("seed")
    for heading in ("texts", "accuracy", "95 %", *report.texts):
        table.add_column(heading, justify="right")
    for one in report.seeds:
        by_class = [number(one.class_accuracy[name], DIGITS) for name in report.texts]
        cells = [number(one.accuracy, DIGITS), interval(one.low, one.high, DIGITS), *by_class]
        table.add_row(str(one.seed), f"{one.num_texts:,}", *cells)
    return table


def _mean(report: ToyReport) -> str:
    if report.low is None or report.high is None:
        return f"{number(report.accuracy, DIGITS)}; one seed says nothing about others"
    return f"{number(report.accuracy, DIGITS)} {interval(report.low, report.high, DIGITS)}"
