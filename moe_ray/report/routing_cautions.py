"""What a reader must know before believing a number about a router."""

from collections.abc import Iterator

from moe_ray.comparison.records import RoutingSummary, Summary
from moe_ray.proportions import wilson_bounds
from moe_ray.report.caution import FEW_EXAMPLES, Caution
from moe_ray.report.format import count, interval, listed, number, words
from moe_ray.report.routing import overall
from moe_ray.routing.results import Calibration, RouterTestResults

LARGE_ECE = 0.05
MOST = 0.5


def routing_cautions(summary: Summary) -> Iterator[Caution]:
    """Warnings about the router, its test and the oracle; none for a run without a router."""
    routing = summary.routing
    if routing is None:
        return
    found = (
        ("Partial oracle", _partial_oracle(routing)),
        ("Routing drift", _drift(routing)),
        ("Confidence", _miscalibrated(routing)),
        ("Few test texts", _few_texts(routing.test_results)),
        ("Threshold", _mostly_foreign(summary, routing)),
    )
    for title, text in found:
        if text:
            yield Caution(level="warning", title=title, text=text)


def _partial_oracle(routing: RoutingSummary) -> str:
    if routing.oracle_is_whole:
        return ""
    return (
        "not every model has a scored answer to every example, so the oracle picks among those there are: it could "
        "be higher, and so could every regret. “matrix: full” asks all models everything."
    )


def _drift(routing: RoutingSummary) -> str:
    """The run's accuracy against that of the router's own test, where their intervals do not meet."""
    whole, tested = overall(routing), routing.test_results
    if whole is None or tested is None or whole.high >= tested.accuracy_low:
        return ""
    here = f"{number(whole.accuracy)} {interval(whole.low, whole.high)}"
    there = f"{number(tested.accuracy)} {interval(tested.accuracy_low, tested.accuracy_high)}"
    return f"the router is right less often on this run, {here}, than on its own test texts, {there}."


def _miscalibrated(routing: RoutingSummary) -> str:
    """A large calibration error that chance alone does not explain."""
    found = routing.calibration
    if found.ece <= LARGE_ECE or not _is_off(found):
        return ""
    return f"on this run the router's probabilities are off by {number(found.ece)} on average (calibration error)."


def _is_off(calibration: Calibration) -> bool:
    """Some bin's confidence lies outside of the interval of how often it was right."""
    for item in calibration.bins:
        if item.n and item.mean_confidence is not None and item.accuracy is not None:
            low, high = wilson_bounds(round(item.accuracy * item.n), item.n)
            if not low <= item.mean_confidence <= high:
                return True
    return False


def _few_texts(tested: RouterTestResults | None) -> str:
    few = [f"{words(item.label)} {item.n}" for item in (tested.per_label if tested else ()) if item.n < FEW_EXAMPLES]
    return f"the router was tested on fewer than {FEW_EXAMPLES} texts of a label ({listed(few)})." if few else ""


def _mostly_foreign(summary: Summary, routing: RoutingSummary) -> str:
    whole = overall(routing)
    if whole is None or whole.num_foreign <= MOST * whole.n:
        return ""
    so = ": the cascade is mostly the baseline" if summary.run.baseline else ""
    return f"the router called {count(whole.num_foreign)} of {count(whole.n)} examples foreign{so}."
