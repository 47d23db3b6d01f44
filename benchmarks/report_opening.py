"""How fast a report opens in a browser, and how large its file is.

    python -m benchmarks.report_opening [--models 2 12] [--answers 10 20000] [--opens 5] [--limit-s 2]

Each report is made of a synthetic run of about so many answers, written once, and opened in turn with the others, in a
fresh page of one headless Chromium without a GPU. From the start of the navigation: the first paint of content, the
page read to its end, the answers unpacked and listed. Then one search through all of them, less the pause that waits
for the typing to end. Medians, and the slowest opening. Exits with 1 when a median opening took longer than the limit.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import machine_line
from moe_ray.report.write import write_report
from moe_ray.scoring.score import write_scores
from tests.support.chromium import Tab, opened_browser
from tests.support.synthetic_run import ALL_METRICS, synthetic_run

LIMIT_S = 2.0
READY = "document.getElementById('browser')?.dataset.ready"
TIMINGS = f"""[
    performance.getEntriesByName('first-contentful-paint')[0].startTime,
    performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd,
    Number({READY}),
]"""
PAINTED = "performance.getEntriesByName('first-contentful-paint').length"
SEARCH = """new Promise((resolve) => {
    const status = document.getElementById('answer-status');
    const box = document.getElementById('filter-search');
    const started = performance.now();
    new MutationObserver(() => resolve(performance.now() - started)).observe(status, { childList: true });
    box.value = 'therefore evidence';
    box.dispatchEvent(new Event('input'));
})"""
TYPING_PAUSE_MS = 120


class Report(NamedTuple):
    """A report, and what making it took."""

    num_models: int
    num_answers: int
    page: Path
    write_s: float


class Opening(NamedTuple):
    """Seconds from the start of the navigation, and those of a search afterwards."""

    painted_s: float
    parsed_s: float
    answers_s: float
    search_s: float


def make_report(folder: Path, num_models: int, num_answers: int) -> Report:
    """Write a synthetic run and its report."""
    run, scores = synthetic_run(folder, num_models=num_models, num_answers=num_answers)
    write_scores(run.scores_path, scores, ALL_METRICS)
    num_written = run.answers_table().num_rows
    started = time.perf_counter()
    write_report(run)
    return Report(num_models, num_written, run.report_path, time.perf_counter() - started)


def open_once(tab: Tab, report: Report) -> Opening:
    """Open the report, wait until its answers can be read, and search them."""
    tab.open(report.page, until=f"{READY} && {PAINTED}")
    timings = tab.evaluate(TIMINGS)
    search_ms = tab.evaluate(SEARCH) - TYPING_PAUSE_MS
    return Opening(*(milliseconds / 1000 for milliseconds in (*timings, search_ms)))


def show(report: Report, openings: list[Opening]) -> float:
    """Print a row, and return the median seconds until the answers can be read."""
    middle = Opening(*(statistics.median(values) for values in zip(*openings, strict=True)))
    slowest_s = max(opening.answers_s for opening in openings)
    size_kib = report.page.stat().st_size / 1024
    print(
        f"{report.num_models:6}  {report.num_answers:7}  {size_kib:8.0f}  {report.write_s:7.2f}"
        f"  {middle.painted_s:7.3f}  {middle.parsed_s:6.3f}  {middle.answers_s:7.3f}  {slowest_s:7.3f}"
        f"  {middle.search_s:8.3f}",
        flush=True,
    )
    return middle.answers_s


def main() -> int:
    parser = argparse.ArgumentParser(description="Time how a report opens in a browser.")
    parser.add_argument("--models", type=int, nargs="+", default=[2, 12])
    parser.add_argument("--answers", type=int, nargs="+", default=[10, 20_000])
    parser.add_argument("--opens", type=int, default=5)
    parser.add_argument("--limit-s", type=float, default=LIMIT_S)
    arguments = parser.parse_args()
    print(machine_line("matplotlib", "jinja2"))
    with tempfile.TemporaryDirectory(prefix="report-opening-") as name, opened_browser() as tab:
        print(tab.call("Browser.getVersion")["product"])
        sizes = [(models, answers) for models in arguments.models for answers in arguments.answers]
        reports = [make_report(Path(name) / f"{models}-{answers}", models, answers) for models, answers in sizes]
        tab.look_as(1400)
        openings = [[open_once(tab, report) for report in reports] for _ in range(arguments.opens)]
        print("models  answers  file KiB  write s  paint s  read s  ready s  slowest  search s")
        slowest_s = max(
            show(report, list(times)) for report, times in zip(reports, zip(*openings, strict=True), strict=True)
        )
    within = slowest_s <= arguments.limit_s
    print(f"answers ready within {arguments.limit_s:g} s: {'met' if within else 'MISSED'}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
