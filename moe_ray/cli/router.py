"""Commands of the router: its data, its training, its routes."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten

from moe_ray.characters import one_line
from moe_ray.cli.progress import ProgressDisplay
from moe_ray.cli.terminal import output_console
from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import OTHER
from moe_ray.domains.loading import load_domain
from moe_ray.domains.prepare import prepare_domain
from moe_ray.errors import DataError, ModelError, UserError
from moe_ray.files import write_directory_atomically
from moe_ray.formatting import NONE, number, plural, seconds
from moe_ray.report.text_table import TextTable
from moe_ray.routing.files import RouterTestResults, find_router
from moe_ray.routing.router import BLANK_SCORE, Route, Router, readable
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs.inputs import DataSets
from moe_ray.runs.wanted_router import RouterData, read_texts
from moe_ray.texts.labelled import (
    OLD_OUT_OF_DOMAIN_DIR,
    OUT_OF_DOMAIN_DIR,
    REASONS,
    REPORT_FILE,
    TEST_FILE,
    TRAIN_FILE,
    DataReport,
    RouterTexts,
    split_counts,
    splits_of,
    write_texts_files,
)

STDIN = "-"
OUT_OF_DOMAIN = "out-of-domain (the baseline answers)"
SHOWN_CHARACTERS = 72


def route_texts(texts: Sequence[str], path: Path, *, as_json: bool) -> None:
    """Print where the router of `path` (its directory, or a run's) sends each text; `-` stands for lines of stdin.

    With `as_json`, one object a line. Raises `UserError` for no text, and for no router.
    """
    wanted = [text for given in texts for text in (_lines_of_stdin() if given == STDIN else [given])]
    if not wanted:
        raise UserError(
            "no text to route", where="TEXT", remedy="give texts as arguments, or - and one a line on stdin"
        )
    router = Router.load(find_router(path))
    routes = router.route(wanted)
    lines = _json_lines(wanted, routes) if as_json else _plain_lines(wanted, routes, router)
    console = output_console(soft_wrap=True)
    for line in lines:
        console.print(one_line(line))


def _lines_of_stdin() -> list[str]:
    return [line.rstrip("\r\n") for line in sys.stdin]


def _json_lines(texts: Sequence[str], routes: Sequence[Route]) -> Iterator[str]:
    for text, route in zip(texts, routes, strict=True):
        yield json.dumps({"text": text, **asdict(route)})


def _plain_lines(texts: Sequence[str], routes: Sequence[Route], router: Router) -> Iterator[str]:
    for text, route in zip(texts, routes, strict=True):
        ranked = sorted(route.probabilities.items(), key=lambda item: -item[1])
        if OTHER in router.labels:
            ranked.append((OTHER, max(0.0, 1 - sum(route.probabilities.values()))))
        shares = ", ".join(f"{name} {number(value)}" for name, value in ranked)
        score = "nothing to read" if route.score == BLANK_SCORE else f"score {number(route.score)}"
        yield f"{OUT_OF_DOMAIN if route.is_out_of_domain else route.domain}: {_shown(text)}"
        yield f"  {shares}; {score}, threshold {number(router.threshold)}; {seconds(route.seconds)}"


def _shown(text: str) -> str:
    """The text's beginning on one line, without what would steer a terminal."""
    return shorten(readable(text), SHOWN_CHARACTERS, placeholder=" ...") or "(a blank text)"


EXPERT_DIR = "expert_eval"
_OWN_NAMES = frozenset({TRAIN_FILE, TEST_FILE, REPORT_FILE, OUT_OF_DOMAIN_DIR, OLD_OUT_OF_DOMAIN_DIR, EXPERT_DIR})


def write_router_data(experiment: LoadedExperiment, out: Path) -> None:
    """Write the texts of the experiment's router, and the examples that its run evaluates, below `out`.

    `out` appears whole or not at all. Raises what `read_texts` and `prepare_domain` raise, and `DataError` when `out`
    holds anything that this command does not write.
    """
    _require_replaceable(out)
    domains = experiment.config.domains
    read = DataSets().read
    run_examples = {
        name: load_domain(name, domain, experiment.base_dir, read).examples for name, domain in domains.items()
    }
    data = read_texts(experiment, run_examples, read=read)

    def write(directory: Path) -> None:
        write_texts_files(directory, data.texts, data.report)
        for name, domain in domains.items():
            prepare_domain(name, domain, experiment.base_dir, directory / EXPERT_DIR, suffix=".json")

    try:
        write_directory_atomically(out, write)
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}", where=str(out), remedy="choose another folder"
        ) from error
    _tell(data, out)


def _require_replaceable(out: Path) -> None:
    """Raise `DataError` if replacing `out` would remove something that this command does not write."""
    if not out.exists():
        return
    unknown = sorted({path.name for path in out.iterdir()} - _OWN_NAMES) if out.is_dir() else [out.name]
    if unknown:
        raise DataError(
            f"holds {unknown[0]}, which this command does not write and will not remove",
            where=str(out),
            remedy="name another folder with --out",
        )


def _tell(data: RouterData, out: Path) -> None:
    console = output_console()
    console.print(_splits_table(data.texts))
    console.print(_sources_table(data.report))
    for reason, meaning in REASONS.items():
        if any(source.dropped.get(reason) for source in data.report.sources):
            console.print(f"  {reason}: {meaning}", soft_wrap=True)
    if num_unbalanced := sum(data.report.num_unbalanced.values()):
        console.print(f"Balance left out {plural(num_unbalanced, 'text')} of the larger labels.")
    console.print(f"\nWrote {out}", soft_wrap=True)


def _splits_table(texts: RouterTexts) -> TextTable:
    table = TextTable(title="The router's texts", title_justify="left")
    table.add_column("label")
    for split, _ in splits_of(texts):
        table.add_column(split, justify="right")
    for label, counts in split_counts(texts).items():
        table.add_row(label, *map(_count, counts.values()))
    for name, group in texts.out_of_domain.items():
        table.add_row(f"{name} (out-of-domain)", NONE, NONE, _count(len(group)))
    return table


def _sources_table(report: DataReport) -> TextTable:
    table = TextTable(title="What became of the records", title_justify="left")
    table.add_column("source")
    table.add_column("records", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("left out")
    for source in report.sources:
        left_out = [f"{source.dropped[reason]:,} {reason}" for reason in REASONS if source.dropped.get(reason)]
        table.add_row(source.name, _count(source.num_records), _count(source.num_kept), ", ".join(left_out) or NONE)
    return table


def _count(number: int) -> str:
    return f"{number:,}"


def train_router(experiment: LoadedExperiment, out: Path | None) -> None:
    """Train the router that `experiment` wants, where it is not there yet, and say how good it is.

    A run of the experiment uses it. With `out` it is copied there too.
    """
    if out is not None and out.exists() and any(out.iterdir()):
        raise ModelError("the directory is not empty", where=str(out), remedy="name a new folder with --out")
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
    out_of_domain = [
        f"{one_line(item.set)}: AUROC {number(item.auroc)}, {item.kept:.0%} kept"
        for item in results.out_of_domain
        if item.kept is not None
    ]
    note = (
        f"\nout-of-domain queries by {results.out_of_domain_score}: {'; '.join(out_of_domain)}" if out_of_domain else ""
    )
    return ", ".join(parts) + note
