"""How routers tell out-of-domain queries, and how far their confidence can be believed, as Markdown tables."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from benchmarks.router_accuracy.cases import HALVES
from benchmarks.router_accuracy.records import Measurements, RunRecord
from benchmarks.router_accuracy.routers import ROUTERS
from benchmarks.router_accuracy.tables import run_of, table
from moe_ray.config.schema import OTHER
from moe_ray.gating.calibration import Calibration
from moe_ray.routing.files import OutOfDomainResult, RouterTestResults
from moe_ray.routing.out_of_domain import SCORE_NAMES

TARGET_AUROC = 0.95
TARGET_ECE = 0.02

# What the out-of-domain sets are told from, and what the router learned of queries of no domain.
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "own questions, no other": ("own", ("pooled",)),
    "own questions, other from the other half of the sets": ("own", tuple(HALVES)),
    "noisy prompts, no other": ("noisy", ("no other",)),
    "noisy prompts, other from prompts": ("noisy", ("all",)),
}


def out_of_domain_tables(measured: Measurements) -> Iterator[str]:
    """Yield the tables of out-of-domain queries and of calibration, each under its title."""
    yield "Out-of-domain sets: AUROC of each score, mean over the sets (lowest set in brackets)\n"
    yield table(["told from / router", *SCORE_NAMES], _score_rows(measured))
    for setting in SETTINGS:
        yield f"Out-of-domain sets against {setting}, by the score that the router chose: AUROC / FPR95 / kept\n"
        yield _set_table(measured, setting)
    yield f"Expected calibration error before and after temperature scaling (target at most {TARGET_ECE})\n"
    yield table(["part / case / router", "n", "temperature", "ECE before", "ECE after", "NLL before", "NLL after"],
                _calibration_rows(measured))  # fmt: skip
    yield from _reliability(measured)


def unseen_results(measured: Measurements, setting: str, router: str) -> list[OutOfDomainResult]:
    """Out-of-domain results of a router in a setting, of sets that it has never seen; its own `other` is left out."""
    part, cases = SETTINGS[setting]
    runs = [run_of(measured, part, case, router) for case in cases]
    return [result for run in runs if run for result in run.results.out_of_domain if result.set != OTHER]


def _score_rows(measured: Measurements) -> Iterator[Sequence[str]]:
    for setting in SETTINGS:
        for router in ROUTERS:
            results = unseen_results(measured, setting, router)
            cells = ([result.auroc for result in results if result.score == score] for score in SCORE_NAMES)
            yield [
                f"{setting} / {router}",
                *(f"{fmean(values):.3f} ({min(values):.3f})" if values else "" for values in cells),
            ]


def _set_table(measured: Measurements, setting: str) -> str:
    by_router = {router: _chosen(unseen_results(measured, setting, router)) for router in ROUTERS}
    sets = list(dict.fromkeys(name for results in by_router.values() for name in results))
    rows = [
        [router, *(_shown(results[name]) if name in results else "" for name in sets)]
        for router, results in by_router.items()
    ]
    return table(["router", *sets], rows)


def _chosen(results: Sequence[OutOfDomainResult]) -> dict[str, OutOfDomainResult]:
    """By set, the result of the score that the router goes by: the one with a threshold."""
    return {result.set: result for result in results if result.kept is not None}


def _shown(result: OutOfDomainResult) -> str:
    return f"{result.auroc:.3f} / {result.fpr95:.3f} / {result.kept:.3f}"


def _calibration_rows(measured: Measurements) -> Iterator[Sequence[str]]:
    for key, run in measured.runs.items():
        before, after = run.results.before_scaling, run.results.after_scaling
        eces, nlls = (f"{before.ece:.3f}", f"{after.ece:.3f}"), (f"{before.nll:.3f}", f"{after.nll:.3f}")
        yield [key, str(run.results.n), _temperatures(run.results), *eces, *nlls]


def _temperatures(results: RouterTestResults) -> str:
    """The temperature of uncertain texts, and that of confident texts if there is one."""
    known = (results.temperature, results.confident_temperature)
    return ", ".join(f"{temperature:.2f}" for temperature in known if temperature is not None)


def _reliability(measured: Measurements) -> Iterator[str]:
    runs = [run for run in measured.runs.values() if (run.part, run.case) == ("noisy", "all")]
    if runs:
        best: RunRecord = max(runs, key=lambda run: run.results.macro_f1)
        yield f"Noisy prompts, {best.router}: reliability after scaling\n"
        yield _bins(best.results.after_scaling)


def _bins(calibration: Calibration) -> str:
    rows = (
        [f"{each.low:.2f} to {each.high:.2f}", str(each.n), f"{each.mean_confidence:.3f}", f"{each.accuracy:.3f}"]
        for each in calibration.bins
        if each.n
    )
    return table(["confidence", "texts", "mean confidence", "accuracy"], rows)
